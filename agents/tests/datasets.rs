//! Datasets: files made by h5py and Minari, and ours read by them.

use std::path::{Path, PathBuf};
use std::process::Command;

use bregman_agents::dataset::{
    Batch, Block, Conversion, D4rlWriter, Dataset, DatasetConfig, MinariInfo, MinariWriter, Source,
};
use bregman_agents::storage::Storage;
use bregman_envs::ActionSpace;
use bregman_envs::hdf5::Dtype;
use bregman_envs::rng::NumpyRng;

/// A fresh folder that ends with the process.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("bregman-datasets-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a writable temporary folder");
    folder
}

/// Runs a Python program there; what it prints.
fn python(folder: &Path, script: &str) -> String {
    let program = Path::new(env!("BREGMAN_VENV")).join("bin/python");
    let output = Command::new(program).args(["-c", script]).current_dir(folder).output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// `write(name, rows, **changes)`: a file with observations 0, 1, 2 …, rewards 10, 11 …; a change of None leaves a key out.
const WRITE: &str = r#"
import h5py, numpy as np
def write(name, rows, **changes):
    keys = dict(
        observations=np.arange(rows, dtype="f4").reshape(-1, 1), actions=np.zeros((rows, 2), "f4"),
        rewards=np.arange(10, 10 + rows, dtype="f4"), terminals=np.zeros(rows, bool), timeouts=np.zeros(rows, bool))
    with h5py.File(name + ".hdf5", "w") as file:
        for key, data in {**keys, **changes}.items():
            if data is not None:
                file.create_dataset(key, data=data, compression="gzip" if np.ndim(data) else None)
"#;

fn config(folder: &Path, name: &str, conversion: Conversion) -> DatasetConfig {
    let path = folder.join(format!("{name}.hdf5")).display().to_string();
    DatasetConfig { conversion, ..DatasetConfig::new(&path) }
}

fn load(config: &DatasetConfig) -> Dataset {
    Dataset::load(config, &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn refusal(config: &DatasetConfig) -> String {
    let error = Dataset::load(config, &mut |_, _| {}).err().expect("refused").to_string();
    error.rsplit_once(".hdf5: ").map_or(error.clone(), |(_, what)| what.into())
}

/// Observations, successors, rewards and whether they are terminal, of a dataset with one number an observation.
fn rows(data: &Dataset) -> (Vec<f32>, Vec<f32>, Vec<f32>, Vec<bool>) {
    let mut batch = Batch::default();
    (0..data.len()).for_each(|row| data.push_row(row, &mut batch).expect("it is there"));
    let terminal = batch.bootstraps.iter().map(|&b| b == 0.0).collect();
    (batch.obs, batch.next_obs, batch.reward, terminal)
}

#[test]
fn rows_become_transitions_by_d4rls_rule_and_by_ours() {
    let place = folder("conversion");
    python(
        &place,
        &format!(
            "{WRITE}
flags = dict(terminals=np.array([0,0,1,0,0,0], bool), timeouts=np.array([0,0,0,0,1,0], bool))
write('six', 6, **flags)
write('six_next', 6, next_observations=np.array([[1],[2],[np.nan],[4],[50],[60]], 'f4'), **flags)
write('four_next', 4, next_observations=np.array([[1],[20],[3],[4]], 'f4'))
write('seven', 7, timeouts=None)
write('stub', 4, rewards=np.array([-1, -1, -1, 0], 'f4'), timeouts=np.array([0, 0, 1, 0], bool))
write('seven_done', 7, timeouts=None, terminals=np.array([1,0,0,0,0,0,0], bool))
"
        ),
    );
    let six = |conversion| rows(&load(&config(&place, "six", conversion)));
    let (obs, next, reward, terminal) = six(Conversion::D4rl);
    assert_eq!((obs, next), (vec![0.0, 1.0, 2.0, 3.0], vec![1.0, 2.0, 3.0, 4.0]));
    assert_eq!((reward, terminal), (vec![10.0, 11.0, 12.0, 13.0], vec![false, false, true, false]));
    // The flag keeps the row with the timeout, does not make it terminal, and takes the next episode for its successor.
    let (_, next, _, terminal) = six(Conversion::D4rlTerminateOnEnd);
    assert_eq!((next, terminal), (vec![1.0, 2.0, 3.0, 4.0, 5.0], vec![false, false, true, false, false]));
    // Ours: no successor is known of rows 4 and 5, and that of the terminal row 2 is never another episode's.
    let (obs, next, _, terminal) = six(Conversion::Own);
    assert_eq!((obs, next), (vec![0.0, 1.0, 2.0, 3.0], vec![1.0, 2.0, 2.0, 4.0]));
    assert_eq!(terminal, [false, false, true, false]);
    // With `next_observations` every row counts, and a successor that is NaN where it never counts does no harm.
    let data = load(&config(&place, "six_next", Conversion::Own));
    assert_eq!(rows(&data).1, [1.0, 2.0, 2.0, 4.0, 50.0, 60.0]);
    let spans: Vec<_> = data.spans.iter().map(|s| (s.start, s.len, s.reward, s.terminated, s.truncated)).collect();
    assert_eq!(spans, [(0, 3, 33.0, true, false), (3, 2, 27.0, false, true), (5, 1, 15.0, false, false)]);
    // An episode that was cut without a flag ends where the next row is not its successor.
    let data = load(&config(&place, "four_next", Conversion::Own));
    assert_eq!(data.spans.iter().map(|s| (s.start, s.len)).collect::<Vec<_>>(), [(0, 2), (2, 2)]);
    // Users of D4RL close an episode at a terminal row.
    assert_eq!(load(&config(&place, "six", Conversion::D4rl)).returns_by_d4rl(), [33.0]);

    // The best episode is one of a single row that is no transition; the next one counts.
    let data = load(&config(&place, "stub", Conversion::Own));
    assert_eq!(data.spans.iter().map(|s| (s.len, s.reward)).collect::<Vec<_>>(), [(2, -3.0), (0, 0.0)]);
    assert_eq!(data.best_rows(0.1), [0, 1]);

    let three = |name, conversion| DatasetConfig { max_episode_steps: 3, ..config(&place, name, conversion) };
    let (obs, next, ..) = rows(&load(&three("seven", Conversion::D4rl)));
    assert_eq!((obs, next), (vec![0.0, 1.0, 3.0, 4.0], vec![1.0, 2.0, 4.0, 5.0]));
    assert_eq!(rows(&load(&three("seven", Conversion::Own))).0, [0.0, 1.0, 3.0, 4.0]);
    // Terminal row 0, then D4RL's counter is 1 and not 0: it takes row 2 for the end, and row 3 is the true one.
    assert_eq!(rows(&load(&three("seven_done", Conversion::D4rl))).0, [0.0, 1.0, 3.0, 4.0]);
    assert_eq!(rows(&load(&three("seven_done", Conversion::Own))).0, [0.0, 1.0, 2.0, 4.0, 5.0]);
}

#[test]
fn a_file_longer_than_what_is_read_at_a_time_has_successors_and_moments_throughout() {
    let place = folder("long");
    python(&place, &format!("{WRITE}\nwrite('long', 32_769)"));
    let data = load(&config(&place, "long", Conversion::Own));
    // 32,768 rows are read at a time: the successor of the last of them is the only row of the second stretch.
    let mut batch = Batch::default();
    data.push_row(32_767, &mut batch).expect("it is there");
    assert_eq!((data.len(), batch.obs[0], batch.next_obs[0]), (32_768, 32_767.0, 32_768.0));
    // 0 to 32,768: mean 16,384, variance (32,769² − 1)/12.
    let std = ((32_769f64.powi(2) - 1.0) / 12.0).sqrt();
    assert!((data.obs.mean[0] - 16_384.0).abs() < 1e-6 && (data.obs.std()[0] / std - 1.0).abs() < 1e-12);
}

#[test]
fn every_type_that_files_use_is_read() {
    let place = folder("types");
    python(
        &place,
        &format!(
            "{WRITE}
ends = [0,0,1,0,0,0]
write('plain', 6, terminals=np.array(ends, bool))
write('f64', 6, observations=np.arange(6.0).reshape(-1, 1), actions=np.zeros((6, 2)), terminals=np.array(ends, bool))
write('flat', 6, observations=np.arange(6.0), terminals=np.array(ends, 'u1'))
write('column', 6, rewards=np.arange(10.0, 16.0).reshape(-1, 1), terminals=np.array(ends, 'f4').reshape(-1, 1))
write('int', 6, terminals=np.array(ends, 'i8'), timeouts=np.zeros(6, 'f8'))
write('more', 6, terminals=np.array(ends, bool), **{{'infos/qpos': np.zeros((6, 3)), 'metadata/iteration': 7}})
"
        ),
    );
    let plain = rows(&load(&config(&place, "plain", Conversion::Own)));
    for name in ["f64", "flat", "column", "int", "more"] {
        assert_eq!(rows(&load(&config(&place, name, Conversion::Own))), plain, "{name}");
    }
}

#[test]
fn bad_files_are_refused_in_a_sentence_with_key_and_row() {
    let place = folder("bad");
    python(
        &place,
        &format!(
            "{WRITE}
write('missing', 6, terminals=None)
write('short', 6, actions=np.zeros((5, 2)))
write('shape', 6, rewards=np.zeros((6, 2)))
write('image', 6, observations=np.zeros((6, 4, 4)))
write('text', 6, rewards=np.array([b'a'] * 6))
write('discrete', 6, actions=np.zeros(6, 'i8'))
write('nan', 6, observations=np.array([[0, 1], [2, 3], [4, 5], [6, np.nan], [8, 9], [1, 1]]))
write('flag', 6, terminals=np.array([0, 0, 2, 0, 0, 0]))
write('empty', 0)
write('whole', 6)
data = open('whole.hdf5', 'rb').read()
open('truncated.hdf5', 'wb').write(data[:len(data) // 2])
open('other.hdf5', 'wb').write(b'these are no numbers')
open('nothing.hdf5', 'wb')
"
        ),
    );
    let cases = [
        (
            "missing",
            "there is no `terminals`: a D4RL file has `observations`, `actions`, `rewards` and `terminals`, a Minari file `episode_0`",
        ),
        ("short", "`actions` has 5 rows and `observations` has 6"),
        ("shape", "`rewards` has the shape [6, 2], and [rows] is read"),
        ("image", "`observations` has the shape [6, 4, 4], and [rows, width] is read"),
        ("text", "`rewards` holds |S1, not numbers"),
        ("discrete", "`actions` are whole numbers, as of a Discrete space, and Box spaces are read"),
        ("nan", "`observations` is NaN in row 3, column 1"),
        ("flag", "`terminals` is 2 in row 2, and 0 or 1 are read"),
        ("empty", "`observations` has no rows"),
        ("truncated", "the file is truncated"),
        ("other", "this is no HDF5 file"),
        ("nothing", "the file is empty"),
        ("absent", "No such file or directory (os error 2)"),
    ];
    for (name, sentence) in cases {
        assert_eq!(refusal(&config(&place, name, Conversion::Own)), sentence, "{name}");
    }
}

#[test]
fn the_range_of_returns_is_that_of_episodes_or_else_what_d4rls_users_find() {
    let place = folder("range");
    python(
        &place,
        &format!(
            "{WRITE}
for n in (2, 3):
    timeouts = np.zeros(1000 * n, bool)
    timeouts[999::1000] = True
    write(f'raw{{n}}', 1000 * n, rewards=np.repeat(2.0 ** np.arange(n), 1000), timeouts=timeouts)
"
        ),
    );
    // 999 rows of each episode are left, so that the rule of 1000 rows swallows the first of the next: 999 + 2, 998·2 + 2·4.
    let two = load(&config(&place, "raw2", Conversion::D4rl));
    assert_eq!((two.len(), two.returns_by_d4rl()), (1998, &[1001.0][..]));
    let refused = two.return_range_by_d4rl().expect_err("a range of 0").to_string();
    assert!(
        refused.ends_with("so rewards cannot be scaled by their range: `reward_scale = \"none\"` would do"),
        "{refused}"
    );
    let three = load(&config(&place, "raw3", Conversion::D4rl));
    assert_eq!((three.len(), three.returns_by_d4rl()), (2997, &[1001.0, 2004.0][..]));
    assert_eq!(three.return_range_by_d4rl().expect("a range"), 1003.0);
    // The episodes themselves are worth 1000, 2000 and 4000, with the rows that no successor is known of.
    for conversion in [Conversion::Own, Conversion::D4rl] {
        assert_eq!(load(&config(&place, "raw3", conversion)).return_range().expect("a range"), 3000.0);
    }
}

/// Three episodes that end in each way: terminated, truncated, cut without a flag; observations of two numbers.
fn episodes() -> Block {
    let mut block = Block::default();
    for (episode, len) in [3, 1, 4].into_iter().enumerate() {
        for t in 0..len {
            let at = |t: usize| [episode as f64 + 0.1, t as f64 / 3.0];
            block.obs.extend(at(t));
            block.next_obs.extend(at(t + 1));
            block.action.extend([0.25 * t as f64, -0.5, 1.0]);
            block.reward.push(0.1 * (10 * episode + t) as f64);
            block.known.push(true);
            block.last.push(t + 1 == len);
            block.terminated.push(episode == 0 && t + 1 == len);
            block.truncated.push(episode == 1 && t + 1 == len);
        }
    }
    block
}

fn read_all(path: &Path) -> Block {
    let source = Source::open(&path.display().to_string()).unwrap_or_else(|e| panic!("{e}"));
    let (mut all, header) = (Block::default(), source.header().clone());
    let config = DatasetConfig::new("");
    let read = source.read(&config, &mut |block| {
        (0..block.len()).for_each(|i| all.push(block, i, header.obs_dim, header.act_dim));
        Ok(())
    });
    read.unwrap_or_else(|e| panic!("{e}"));
    all
}

#[test]
fn what_is_written_is_read_and_loads_in_h5py_and_minari() {
    let place = folder("round_trip");
    let block = episodes();
    let mut d4rl = D4rlWriter::create(&place.join("d.hdf5"), 2, 3, Dtype::F64).expect("writable");
    let mut minari = MinariWriter::create(&place.join("ours/walk/medium-v0"), 2, 3, Dtype::F64).expect("writable");
    d4rl.push(&block).expect("writable");
    minari.push(&block).expect("writable");
    let about = [("algorithm_name".to_string(), "SAC".to_string())];
    let spec =
        bregman_envs::gymnasium::spec_json(&bregman_envs::EnvConfig::new("Hopper-v5")).expect("Gymnasium knows it");
    d4rl.finish(Some(&spec), &about).expect("writable");
    let bounds = vec![1.0; 3];
    let info = MinariInfo {
        dataset_id: "ours/walk/medium-v0".into(),
        action_space: Some(ActionSpace::Box { low: vec![-1.0; 3], high: bounds }),
        env_spec: Some(spec),
        reference: Some((-20.0, 3000.0)),
        about: [
            ("algorithm_name", "SAC"),
            ("author", "[\"A\",\"B\"]"),
            ("author_email", "a@b"),
            ("description", "a test"),
        ]
        .map(|(name, text)| (name.into(), text.into()))
        .into(),
    };
    minari.finish(&info).expect("writable");

    // A cut that nothing says why is a timeout to readers of either format.
    let mut expected = block.clone();
    expected.truncated[7] = true;
    assert_eq!(read_all(&place.join("d.hdf5")), expected);
    assert_eq!(read_all(&place.join("ours/walk/medium-v0")), expected);
    let headers = ["d.hdf5", "ours/walk/medium-v0/data/main_data.hdf5"]
        .map(|path| Source::open(&place.join(path).display().to_string()).expect("it opens").header().clone());
    for header in headers {
        let env = header.env.expect("it names one");
        assert_eq!((env.id.as_str(), env.max_episode_steps), ("Hopper-v5", Some(1000)));
        assert_eq!(header.rows, 8);
        assert!(header.about.contains(&about[0]), "{:?}", header.about);
    }

    // D4RL's loader: visit everything, read arrays or else scalars. Minari's: everything that users call.
    let told = python(
        &place,
        r#"
import os, json
os.environ["MINARI_DATASETS_PATH"] = os.getcwd()
import h5py, minari, numpy as np
keys = []
with h5py.File("d.hdf5") as file:
    file.visititems(lambda name, item: keys.append(name) if isinstance(item, h5py.Dataset) else None)
    data = {}
    for key in keys:
        try: data[key] = file[key][:]
        except ValueError: data[key] = file[key][()]
assert data["terminals"].dtype == bool and data["timeouts"].dtype == bool and data["metadata/algorithm"] == b"SAC"
assert data["observations"].shape == (8, 2) and data["rewards"].shape == (8,)
assert "ours/walk/medium-v0" in minari.list_local_datasets()
dataset = minari.load_dataset("ours/walk/medium-v0")
assert dataset.spec.env_spec.id == "Hopper-v5" and dataset.spec.action_space.shape == (3,)
assert dataset.observation_space.shape == (2,), dataset.observation_space
about = dataset.storage.metadata
assert (about["author"], about["author_email"]) == ({"A", "B"}, {"a@b"}), about
lengths = [len(episode) for episode in dataset.iterate_episodes()]
str(dataset[0])
kept = dataset.filter_episodes(lambda episode: bool(episode.truncations[-1]))
halves = minari.split_dataset(dataset, sizes=[1, 2])
assert (kept.total_episodes, kept.total_steps, sum(half.total_steps for half in halves)) == (2, 5, 8)
assert minari.get_normalized_score(dataset, np.array([3000.0, -20.0, 1490.0])).tolist() == [1.0, 0.0, 0.5]
assert dataset[0].observations.shape == (4, 2) and dataset[0].terminations.tolist() == [False, False, True]
print(json.dumps([lengths, data["timeouts"].tolist(), dataset[2].observations[-1].tolist()]))
"#,
    );
    let flags = "[false, false, false, true, false, false, false, true]";
    assert_eq!(told.trim(), format!("[[3, 1, 4], {flags}, [2.1, 1.3333333333333333]]"));
}

#[test]
fn what_minaris_own_collector_writes_is_read() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/minari_collector");
    let data = load(&DatasetConfig::new(&place.display().to_string()));
    assert_eq!((data.len(), data.spans.len(), data.header.obs_dim, data.header.act_dim), (15, 3, 3, 1));
    let env = data.header.env.clone().expect("it names its environment");
    assert_eq!((env.id.as_str(), env.max_episode_steps), ("Pendulum-v1", Some(5)));
    // Sums that Minari left in the file's attributes.
    for (span, sum) in data.spans.iter().zip([-5.541500431863654, -1.0075731175311688, -17.847346852556033]) {
        assert!((span.reward - sum).abs() < 1e-12 && span.truncated && !span.terminated, "{span:?}");
    }
    let mut batch = Batch::default();
    (4..7).for_each(|row| data.push_row(row, &mut batch).expect("it is there"));
    assert_eq!(batch.obs[3..6], [0.9972427, 0.074209176, 0.90092736]);
    assert_eq!(batch.next_obs[3..6], batch.obs[6..9], "inside an episode");
    assert_ne!(batch.next_obs[0..3], batch.obs[3..6], "at its end");
    assert_eq!((batch.action[1], batch.bootstraps[0]), (1.494_213_8, 1.0), "a time limit is no end");
}

#[test]
fn minari_files_that_do_not_fit_are_refused() {
    let place = folder("bad_minari");
    python(
        &place,
        r#"
import h5py, json, numpy as np, os
def write(name, metadata={}, **changes):
    os.makedirs(f"{name}/data")
    with h5py.File(f"{name}/data/main_data.hdf5", "w") as file:
        for i in range(2):
            keys = dict(observations=np.zeros((4, 2)), actions=np.zeros((3, 1), "f4"), rewards=np.zeros(3),
                        terminations=np.zeros(3, bool), truncations=np.zeros(3, bool))
            for key, data in {**keys, **(changes if i else {})}.items():
                if data is not None: file[f"episode_{i}/{key}"] = data
    json.dump({"minari_version": "0.5.4", "total_episodes": 2, **metadata}, open(f"{name}/data/metadata.json", "w"))
write("version", {"minari_version": "0.9.0"})
write("count", {"total_episodes": 3})
write("missing", rewards=None)
write("rows", observations=np.zeros((3, 2)))
write("width", observations=np.zeros((4, 3)))
write("nan", rewards=np.array([0, np.inf, 0]))
write("right")
os.makedirs("arrow/data"); json.dump({"data_format": "arrow"}, open("arrow/data/metadata.json", "w"))
os.makedirs("hollow")
with h5py.File("dict.hdf5", "w") as file: file["episode_0/observations/left"] = np.zeros(3)
"#,
    );
    let refused = |name: &str| refusal(&DatasetConfig::new(&place.join(name).display().to_string()));
    assert_eq!(
        refused("version"),
        "metadata.json beside it says `minari_version` \"0.9.0\", and 0.4.0 to 0.5.4 are read"
    );
    assert_eq!(refused("count"), "metadata.json beside it says 3 episodes, and there are 2: the file is not whole");
    assert_eq!(refused("missing"), "there is no `episode_1/rewards`");
    assert_eq!(refused("rows"), "`episode_1/observations` has 3 rows, and 3 actions make it 4");
    assert_eq!(
        refused("width"),
        "`episode_1/observations` has the shape [4, 3], and its rows have 2 numbers in episode 0"
    );
    assert_eq!(refused("nan"), "`episode_1/rewards` is inf in row 1");
    assert!(refused("arrow").ends_with("arrow: its data format is `arrow`, and `hdf5` is read"));
    assert!(refused("hollow").ends_with("hollow: there is no main_data.hdf5 in it"));
    assert_eq!(refused("dict.hdf5"), "`observations` are of a Dict or Tuple space, and Box spaces are read");
    assert!(
        refusal(&DatasetConfig::new("mujoco/nothing/expert-v0"))
            .contains("there is no such file, nor such a dataset in")
    );
    let path = place.join("right").display().to_string();
    let by_d4rl = DatasetConfig { conversion: Conversion::D4rl, ..DatasetConfig::new(&path) };
    assert!(refusal(&by_d4rl).contains("is a Minari dataset, whose files hold every successor"));
}

#[test]
fn rows_on_disk_are_the_rows_in_memory_and_episodes_can_be_chosen() {
    let place = folder("storage");
    let mut writer = D4rlWriter::create(&place.join("d.hdf5"), 2, 3, Dtype::F32).expect("writable");
    writer.push(&episodes()).expect("writable");
    writer.finish(None, &[]).expect("writable");
    let with = |storage| load(&DatasetConfig { storage, ..config(&place, "d", Conversion::Own) });
    let (memory, disk) = (with(Storage::Memory), with(Storage::Disk));
    assert_eq!(memory.fingerprint, disk.fingerprint);
    let draw = |data: &Dataset| {
        let (mut rng, mut batch) = (NumpyRng::new(3), Batch::default());
        data.sample(50, None, &mut rng, &mut batch).expect("it is there");
        (batch.obs, batch.action, batch.reward, batch.next_obs, batch.bootstraps)
    };
    assert_eq!(draw(&memory), draw(&disk));
    assert_eq!(std::fs::read_dir(&place).expect("a folder").count(), 1, "the file of rows has no name");
    // Returns 0.3, 1.0, 8.6: the best third is the last episode.
    assert_eq!(memory.best_rows(0.34), [4, 5, 6, 7]);
    assert_eq!(memory.best_rows(0.01), [4, 5, 6, 7], "at least one");
    assert_eq!(memory.best_rows(0.7), [3, 4, 5, 6, 7]);
    let second = DatasetConfig { skip_episodes: 1, max_episodes: Some(1), ..config(&place, "d", Conversion::Own) };
    assert_eq!(load(&second).spans.iter().map(|span| span.len).collect::<Vec<_>>(), [1]);
    assert_ne!(load(&second).fingerprint, memory.fingerprint);
}
