//! The keyword arguments of native environments, strictly read.

use crate::{EnvError, registry::EnvConfig};

/// Reads the arguments of one constructor by name; [`finish`](Kwargs::finish) refuses what was not asked for.
pub(crate) struct Kwargs<'a> {
    config: &'a EnvConfig,
    known: Vec<&'static str>,
}

impl<'a> Kwargs<'a> {
    /// The arguments in `config`.
    pub fn new(config: &'a EnvConfig) -> Kwargs<'a> {
        Kwargs { config, known: Vec::new() }
    }

    /// A number, or its default.
    pub fn number(&mut self, name: &'static str, default: f64) -> Result<f64, EnvError> {
        match self.take(name) {
            None => Ok(default),
            Some(value) => number(value).ok_or_else(|| self.wrong(name, value, "a number")),
        }
    }

    /// `true` or `false`, or the default.
    pub fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, EnvError> {
        match self.take(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(name, value, "true or false")),
        }
    }

    /// Refuses arguments that no one asked for.
    pub fn finish(self) -> Result<(), EnvError> {
        let Some(name) = self.config.kwargs.keys().find(|name| !self.known.contains(&name.as_str())) else {
            return Ok(());
        };
        Err(self.invalid(match nearest(name, &self.known) {
            _ if name == "render_mode" => {
                "`render_mode` needs backend = \"gymnasium\", since native environments do not draw".into()
            }
            Some(near) => format!("there is no argument `{name}`; did you mean `{near}`?"),
            None => format!("there is no argument `{name}`; it takes none"),
        }))
    }

    /// An error about this environment.
    pub fn invalid(&self, message: String) -> EnvError {
        EnvError::Invalid { id: self.config.id.clone(), message }
    }

    fn take(&mut self, name: &'static str) -> Option<&'a toml::Value> {
        self.known.push(name);
        self.config.kwargs.get(name)
    }

    fn wrong(&self, name: &str, value: &toml::Value, rule: &str) -> EnvError {
        self.invalid(format!("`{name}` is {value}; it must be {rule}"))
    }
}

fn number(value: &toml::Value) -> Option<f64> {
    let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64))?;
    (!number.is_nan()).then_some(number)
}

/// The known name that is most like `name`, if there is any name at all.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().copied().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)))
}
