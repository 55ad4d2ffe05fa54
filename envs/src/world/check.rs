//! Whether a world keeps what the trait promises.

use super::{World, WorldSpec, log_sum_exp};
use crate::EnvError;
use crate::rng::NumpyRng;

/// Walks `walks` random trajectories forwards and back and tries every action on the way: masks, inverse actions, rewards,
/// energies, encodings and counts of paths.
///
/// # Errors
/// The first thing that does not hold, in one sentence that names the state.
pub fn check_world(world: &dyn World, walks: usize, seed: u64) -> Result<(), EnvError> {
    let spec = world.spec();
    let mut rng = NumpyRng::new(seed);
    let mut check = Check { world, spec, forward: Vec::new(), backward: Vec::new(), row: Vec::new() };
    let mut initial = vec![0; spec.state_len];
    world.initial(&mut initial);
    if world.is_terminal(&initial) {
        return Err(spec.error("the initial state is terminal: there is nothing to build"));
    }
    if check.backward_actions(&initial).next().is_some() {
        return Err(spec.error("the initial state has backward actions: nothing comes before it"));
    }
    for _ in 0..walks {
        let mut state = initial.clone();
        let mut len = 0;
        while !world.is_terminal(&state) {
            if len == spec.max_len {
                let state = world.describe(&state);
                return Err(
                    spec.error(format!("a trajectory goes on after {len} steps, its `max_len`, in state {state}"))
                );
            }
            let actions = check.state(&state)?;
            world.apply(&mut state, actions[rng.below(actions.len())]);
            len += 1;
        }
        check.terminal(&state)?;
        // Back by random backward actions, which may lead to states that no forward walk met.
        while state != initial {
            let backward = check.ways_back(&state)?;
            let backward = backward[rng.below(backward.len())];
            world.undo(&mut state, backward);
            check.state(&state)?;
        }
    }
    Ok(())
}

struct Check<'a> {
    world: &'a dyn World,
    spec: &'a WorldSpec,
    forward: Vec<bool>,
    backward: Vec<bool>,
    row: Vec<f32>,
}

impl Check<'_> {
    fn wrong(&self, state: &[i32], what: &str) -> EnvError {
        self.spec.error(format!("in state {} {what}", self.world.describe(state)))
    }

    fn backward_actions(&mut self, state: &[i32]) -> impl Iterator<Item = usize> + '_ {
        self.backward.clear();
        self.backward.resize(self.spec.num_backward, false);
        self.world.backward_actions(state, &mut self.backward);
        self.backward.iter().enumerate().filter_map(|(i, &legal)| legal.then_some(i))
    }

    /// The legal actions of a state that is not terminal, after trying each.
    fn state(&mut self, state: &[i32]) -> Result<Vec<usize>, EnvError> {
        self.numbers(state)?;
        self.forward.clear();
        self.forward.resize(self.spec.num_actions, false);
        self.world.actions(state, &mut self.forward);
        let actions: Vec<usize> = (0..self.spec.num_actions).filter(|&action| self.forward[action]).collect();
        if actions.is_empty() {
            return Err(self.wrong(state, "no action is legal and it is not terminal: a trajectory could not go on"));
        }
        if self.spec.exit.is_some_and(|exit| !self.forward[exit]) {
            return Err(self.wrong(state, "the exit is not legal: a world that has one lets every state stop"));
        }
        for &action in &actions {
            let mut child = state.to_vec();
            let backward = self.world.apply(&mut child, action);
            let said = format!("action {action}");
            if backward.is_none() != (self.spec.exit == Some(action)) {
                return Err(self.wrong(
                    state,
                    &format!("{said} is the exit for one of `apply` and `spec().exit` and not the other"),
                ));
            }
            if backward.is_none() && !self.world.is_terminal(&child) {
                return Err(self.wrong(state, &format!("{said} is the exit and does not lead to a terminal state")));
            }
            if let Some(b) = backward
                && !self.backward_actions(&child).any(|legal| legal == b)
            {
                return Err(self.wrong(state, &format!("{said} is undone by {b}, which is not legal behind it")));
            }
            let back = self.world.undo(&mut child, backward);
            if child != state || back != action {
                return Err(self.wrong(state, &format!("{said} and the backward action it names do not cancel")));
            }
        }
        Ok(actions)
    }

    /// The ways back from a state, after trying each.
    fn ways_back(&mut self, state: &[i32]) -> Result<Vec<Option<usize>>, EnvError> {
        if self.world.is_terminal(state) && self.spec.exit.is_some() {
            return Ok(vec![None]);
        }
        let ways: Vec<Option<usize>> = self.backward_actions(state).map(Some).collect();
        if ways.is_empty() {
            return Err(self.wrong(state, "no backward action is legal and it is not the initial one"));
        }
        let mut paths = Vec::new();
        for &backward in &ways {
            let mut parent = state.to_vec();
            let action = self.world.undo(&mut parent, backward);
            paths.extend(self.world.log_paths(&parent));
            if self.world.apply(&mut parent, action) != backward || parent != state {
                return Err(
                    self.wrong(state, &format!("backward action {backward:?} and the action it names do not cancel"))
                );
            }
        }
        if let Some(own) = self.world.log_paths(state)
            && (own - log_sum_exp(paths.into_iter())).abs() > 1e-9
        {
            return Err(self.wrong(state, "`log_paths` is not the sum over its parents"));
        }
        Ok(ways)
    }

    fn terminal(&mut self, state: &[i32]) -> Result<(), EnvError> {
        self.numbers(state)?;
        let log_reward = self.world.log_reward(state);
        if !log_reward.is_finite() {
            return Err(self.wrong(state, &format!("the log-reward is {log_reward}: give rewards a positive floor")));
        }
        if self.spec.energies && (self.world.energy(state) + log_reward).abs() > 1e-9 * log_reward.abs().max(1.0) {
            return Err(self.wrong(state, "the energy is not minus the log-reward, as it must be on terminal states"));
        }
        Ok(())
    }

    fn numbers(&mut self, state: &[i32]) -> Result<(), EnvError> {
        if self.spec.energies && !self.world.energy(state).is_finite() {
            return Err(self.wrong(state, &format!("the energy is {}", self.world.energy(state))));
        }
        // The exit's copy is never shown to a network.
        if self.world.is_terminal(state) && self.spec.exit.is_some() {
            return Ok(());
        }
        self.row.clear();
        self.row.resize(self.spec.encoding_len, 0.0);
        self.world.encode(state, &mut self.row);
        match self.row.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(self.wrong(state, &format!("the encoding holds {x}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strings of `a` and `b`, two long, appended; each flag breaks one promise.
    #[derive(Default)]
    struct Broken {
        spec: Option<WorldSpec>,
        stuck: bool,
        infinite: bool,
        astray: bool,
        inconsistent: bool,
        miscounted: bool,
    }

    impl Broken {
        fn with(change: impl Fn(&mut Broken)) -> Broken {
            let spec = WorldSpec {
                name: "broken".into(),
                state_len: 2,
                encoding_len: 1,
                num_actions: 2,
                num_backward: 1,
                exit: None,
                max_len: 2,
                num_states: Some(7),
                energies: true,
                heavy: false,
            };
            let mut world = Broken { spec: Some(spec), ..Default::default() };
            change(&mut world);
            world
        }
    }

    impl World for Broken {
        fn spec(&self) -> &WorldSpec {
            self.spec.as_ref().expect("set")
        }

        fn initial(&self, state: &mut [i32]) {
            state.fill(0);
        }

        fn is_terminal(&self, state: &[i32]) -> bool {
            state[1] != 0
        }

        fn actions(&self, state: &[i32], legal: &mut [bool]) {
            legal.fill(!(self.stuck && state[0] == 2));
        }

        fn backward_actions(&self, state: &[i32], legal: &mut [bool]) {
            legal[0] = state[0] != 0;
        }

        fn apply(&self, state: &mut [i32], action: usize) -> Option<usize> {
            state[usize::from(state[0] != 0)] = action as i32 + 1;
            Some(0)
        }

        fn undo(&self, state: &mut [i32], _: Option<usize>) -> usize {
            let place = usize::from(state[1] != 0);
            let action = state[place] as usize - 1;
            state[place] = 0;
            if self.astray { 0 } else { action }
        }

        fn log_reward(&self, state: &[i32]) -> f64 {
            if self.infinite && state[0] == 1 { f64::NEG_INFINITY } else { f64::from(state[0]) }
        }

        fn energy(&self, state: &[i32]) -> f64 {
            if self.inconsistent { 0.5 } else { f64::from(-state[0]) }
        }

        fn encode(&self, _: &[i32], row: &mut [f32]) {
            row[0] = 1.0;
        }

        /// One path leads to each string.
        fn log_paths(&self, state: &[i32]) -> Option<f64> {
            Some(if self.miscounted { f64::from(state[0]) } else { 0.0 })
        }
    }

    #[test]
    fn each_broken_promise_is_one_sentence() {
        let said = |change: fn(&mut Broken)| match check_world(&Broken::with(change), 20, 1) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said(|_| ()), "");
        assert_eq!(
            said(|world| world.stuck = true),
            "world `broken`: in state 2 0 no action is legal and it is not terminal: a trajectory could not go on"
        );
        assert!(said(|world| world.infinite = true).contains("the log-reward is -inf: give rewards a positive floor"));
        assert!(said(|world| world.astray = true).contains("action 1 and the backward action it names do not cancel"));
        assert!(said(|world| world.inconsistent = true).contains("the energy is not minus the log-reward"));
        assert!(said(|world| world.miscounted = true).contains("`log_paths` is not the sum over its parents"));
        let short = said(|world| world.spec.as_mut().expect("set").max_len = 1);
        assert!(short.contains("a trajectory goes on after 1 steps, its `max_len`, in state "), "{short}");
    }
}
