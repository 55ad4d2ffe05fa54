//! Checkpoints on disk: whole or absent.
//!
//! A checkpoint is a folder `checkpoints/00204800/` with `manifest.json` and `learner.safetensors`. It is written under a
//! temporary name, synced and renamed. The manifest carries the hash of everything beside it and of itself, and the length of
//! every log at that moment, so that a resumed run can cut them back.
//!
//! Replay buffers lie beside the checkpoints, as segments `buffer/replay-000000000000-000000050000.bin` of rows that never change:
//! a checkpoint writes the rows that have come since the last one and lists the segments that it needs. Checkpoints share them;
//! a segment that none lists is removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::agents::learner::{Array, Criterion, Progress, Snapshot};
use crate::agents::rows::Rows;
use crate::agents::storage::Storage;
use crate::error::bad_input;

/// The layout of manifests; a reader refuses any other.
const FORMAT: u32 = 2;

/// Rows of a segment at most, and those below which it is written again together with the next.
const SEGMENT: u64 = 1 << 16;
const SMALL: u64 = 1 << 14;

/// What a checkpoint says beside the learner's arrays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of this file.
    pub format: u32,
    /// Version of the library that wrote it.
    pub version: String,
    /// The resolved run file it was trained under.
    pub run_file: String,
    /// Where the run stands, in the budget's unit; also the folder's name.
    pub position: u64,
    /// The learner's counters.
    pub progress: Progress,
    /// The loop's own state.
    pub run: RunState,
    /// Length in bytes of every log.
    pub logs: BTreeMap<String, u64>,
    /// Hash and length of the files beside the manifest.
    pub files: BTreeMap<String, FileHash>,
    /// The learner's replay buffers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, StoredRows>,
    /// The learner's counters and streams.
    pub learner: serde_json::Map<String, serde_json::Value>,
    /// SHA-256 of the manifest's text with this left empty.
    pub sha256: String,
}

/// What every layout of a manifest has.
#[derive(Deserialize)]
struct Layout {
    format: u32,
    version: String,
}

/// What the loop remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Return and length of the last 100 training episodes, oldest first.
    pub recent: std::collections::VecDeque<(Return, u32)>,
    /// Best evaluation and the position where it was reached.
    pub best: Option<(Return, u64)>,
    /// What it is the best by, where that is not the mean return.
    #[serde(default)]
    pub criterion: Option<Criterion>,
    /// Seconds spent so far, over all sittings.
    pub seconds: f64,
    /// Whether the run ended before its budget, because `eval.stop_at` was reached.
    pub stopped: bool,
}

/// A return. JSON has no number for what is not finite, such as a reward whose logarithm is 1000; there it stands as text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Return(pub f64);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Finite(f64),
    Text(String),
}

impl From<Written> for Return {
    fn from(written: Written) -> Return {
        match written {
            Written::Finite(number) => Return(number),
            Written::Text(text) => Return(text.parse().unwrap_or(f64::NAN)),
        }
    }
}

impl From<Return> for Written {
    fn from(Return(number): Return) -> Written {
        if number.is_finite() { Written::Finite(number) } else { Written::Text(number.to_string()) }
    }
}

/// What a file must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileHash {
    /// Length.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Where rows lie on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredRows {
    /// Length of a row.
    pub width: usize,
    /// Most rows that are held.
    pub capacity: usize,
    /// Rows ever added; the last of them, as many as there is capacity for, are in the segments.
    pub added: u64,
    /// In order, without gaps. The first may begin with rows that have fallen away.
    pub segments: Vec<Segment>,
}

/// A file of rows in `buffer/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Its name.
    pub file: String,
    /// Number of its first row.
    pub first: u64,
    /// Number of the row after its last.
    pub end: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// A manifest of this library; files and learner state are filled in by [`write`].
    pub fn new(
        run_file: String,
        position: u64,
        progress: Progress,
        run: RunState,
        logs: BTreeMap<String, u64>,
    ) -> Manifest {
        Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            run_file,
            position,
            progress,
            run,
            logs,
            files: BTreeMap::new(),
            rows: BTreeMap::new(),
            learner: serde_json::Map::new(),
            sha256: String::new(),
        }
    }
}

/// Writes a checkpoint of `snapshot` under `run/checkpoints/`.
pub fn write(run: &Path, mut manifest: Manifest, snapshot: &Snapshot) -> Result<()> {
    let folder = run.join("checkpoints");
    let name = format!("{:08}", manifest.position);
    let (temporary, place) = (folder.join(format!(".{name}.tmp")), folder.join(&name));
    let mut attempt = || -> Result<()> {
        fs::create_dir_all(&folder)?;
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fs::create_dir(&temporary)?;
        let last = positions(run).last().and_then(|&position| listed_rows(run, position).ok()).unwrap_or_default();
        for (name, rows) in &snapshot.rows {
            manifest.rows.insert(name.clone(), write_rows(run, name, rows, last.get(name))?);
        }
        let arrays = to_safetensors(snapshot, None)?;
        manifest.files.insert("learner.safetensors".into(), hash(&arrays));
        manifest.learner = snapshot.state.clone();
        write_synced(&temporary.join("learner.safetensors"), &arrays)?;
        manifest.sha256.clear();
        manifest.sha256 = hash(&serde_json::to_vec_pretty(&manifest)?).sha256;
        write_synced(&temporary.join("manifest.json"), &serde_json::to_vec_pretty(&manifest)?)?;
        File::open(&temporary)?.sync_all()?;
        // One that is there stays whole until the new one is in its place; between the renames `recover` finds it.
        let old = folder.join(format!(".{name}.old.tmp"));
        if place.exists() {
            if old.exists() {
                fs::remove_dir_all(&old)?;
            }
            fs::rename(&place, &old)?;
        }
        fs::rename(&temporary, &place)?;
        File::open(&folder)?.sync_all()?;
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        Ok(())
    };
    attempt().with_context(|| format!("writing the checkpoint {}", place.display()))
}

/// Writes a policy as `path`: its arrays, and in the file's metadata its state and the learner's counters, both as JSON.
pub fn write_policy(path: &Path, policy: &Snapshot, progress: Progress) -> Result<()> {
    let metadata = HashMap::from([
        ("state".to_string(), serde_json::to_string(&policy.state)?),
        ("progress".to_string(), serde_json::to_string(&progress)?),
        ("version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
    ]);
    write_whole(path, &to_safetensors(policy, Some(metadata))?)
}

/// Reads what [`write_policy`] wrote.
///
/// # Errors
/// [`BadInput`](crate::BadInput): a file that is missing, damaged, or of another kind, in a sentence.
pub fn read_policy(path: &Path) -> Result<(Snapshot, Progress)> {
    let bad = |what: String| crate::BadInput(format!("{}: {what}", path.display()));
    let bytes = fs::read(path).map_err(|e| bad(e.to_string()))?;
    let arrays = from_safetensors(&bytes).map_err(|e| bad(format!("no safetensors file: {e}")))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(format!("no safetensors file: {e}")))?;
    let part = |name: &str| {
        let metadata = header.metadata().as_ref().and_then(|metadata| metadata.get(name));
        metadata.ok_or_else(|| bad(format!("not a policy of a run: its metadata has no `{name}`")))
    };
    let damaged = |e: serde_json::Error| bad(format!("its metadata is damaged: {e}"));
    let state = serde_json::from_str(part("state")?).map_err(damaged)?;
    let progress = serde_json::from_str(part("progress")?).map_err(damaged)?;
    Ok((Snapshot { arrays, state, ..Default::default() }, progress))
}

/// Writes a file that is whole or absent: temporary name, sync, rename. Folders on the way are made.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let attempt = || -> Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let temporary = path.with_added_extension("tmp");
        write_synced(&temporary, bytes)?;
        Ok(fs::rename(&temporary, path)?)
    };
    attempt().with_context(|| format!("writing {}", path.display()))
}

/// Puts back a checkpoint that a kill caught between its old name and its place's new holder.
///
/// # Errors
/// The file system's.
pub fn recover(run: &Path) -> Result<()> {
    let folder = run.join("checkpoints");
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let place = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".old.tmp"));
        if let Some(place) = place.map(|name| folder.join(name)).filter(|place| !place.exists()) {
            fs::rename(entry.path(), &place).with_context(|| format!("putting back {}", place.display()))?;
        }
    }
    Ok(())
}

/// Positions of the checkpoints of a run, ascending. Leftovers of interrupted writing are not among them.
pub fn positions(run: &Path) -> Vec<u64> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let mut all: Vec<u64> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    all
}

/// Reads and verifies a checkpoint.
///
/// # Errors
/// A file that is missing, truncated or altered, in a sentence; [`BadInput`](crate::BadInput) for a manifest of another layout.
pub fn read(run: &Path, position: u64, part: Part) -> Result<(Manifest, Snapshot)> {
    let place = folder(run, position);
    let read =
        |name: &str| fs::read(place.join(name)).with_context(|| format!("reading {}", place.join(name).display()));
    let text = read("manifest.json")?;
    if let Ok(Layout { format, version }) = serde_json::from_slice(&text)
        && format != FORMAT
    {
        let place = place.display();
        bad_input!("{place} has layout {format}, of version {version}; this version reads layout {FORMAT}");
    }
    let file = place.join("manifest.json");
    let manifest: Manifest = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?;
    // The text is hashed as it is, not as it is understood: no byte of it can change unnoticed.
    let open = String::from_utf8_lossy(&text).replacen(&manifest.sha256, "", 1);
    ensure!(hash(open.as_bytes()).sha256 == manifest.sha256, "{} was altered", file.display());
    let Some(expected) = manifest.files.get("learner.safetensors") else {
        bail!("{}: the manifest names no learner.safetensors", place.display());
    };
    let arrays = read("learner.safetensors")?;
    let file = place.join("learner.safetensors");
    ensure!(
        arrays.len() as u64 == expected.bytes,
        "{} has {} bytes where {} belong: it was {}",
        file.display(),
        arrays.len(),
        expected.bytes,
        if (arrays.len() as u64) < expected.bytes { "truncated" } else { "altered" }
    );
    ensure!(hash(&arrays) == *expected, "{} does not have the hash of its manifest: it was altered", file.display());
    let mut snapshot =
        Snapshot { arrays: from_safetensors(&arrays)?, state: manifest.learner.clone(), ..Default::default() };
    if let Part::Whole(storage) = part {
        for (name, stored) in &manifest.rows {
            snapshot.rows.insert(name.clone(), read_rows(run, stored, storage)?);
        }
    }
    Ok((manifest, snapshot))
}

/// How much of a checkpoint is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything: what going on needs, replay buffers to where they are kept.
    Whole(Storage),
    /// Everything but replay buffers: what acting needs.
    Policy,
}

/// Writes the rows that the segments of `last`, an earlier checkpoint, do not hold yet; returns where all of them lie.
fn write_rows(run: &Path, name: &str, rows: &Rows, last: Option<&StoredRows>) -> Result<StoredRows> {
    let (held, bytes) = (rows.held(), 4 * rows.width() as u64);
    let there = |segment: &&Segment| {
        let len = fs::metadata(run.join("buffer").join(&segment.file)).map(|file| file.len());
        segment.end > held.start
            && segment.end <= held.end
            && len.is_ok_and(|len| len == (segment.end - segment.first) * bytes)
    };
    let known = last.filter(|last| last.width == rows.width());
    let mut segments: Vec<Segment> = known.map_or(vec![], |last| last.segments.iter().filter(there).cloned().collect());
    // One that is missing would leave a gap; then everything is written anew.
    let whole = segments.windows(2).all(|pair| pair[0].end == pair[1].first);
    if !whole || segments.first().is_some_and(|first| first.first > held.start) {
        segments.clear();
    }
    while segments.last().is_some_and(|last| last.end - last.first < SMALL && last.first >= held.start) {
        segments.pop();
    }
    let mut next = segments.last().map_or(held.start, |last| last.end);
    while next < held.end {
        let range = next..held.end.min(next + SEGMENT);
        next = range.end;
        segments.push(write_segment(run, name, rows, range)?);
    }
    Ok(StoredRows { width: rows.width(), capacity: rows.capacity(), added: held.end, segments })
}

/// Writes some rows as a file that is whole or absent.
fn write_segment(run: &Path, name: &str, rows: &Rows, range: Range<u64>) -> Result<Segment> {
    let folder = run.join("buffer");
    let file = format!("{name}-{:012}-{:012}.bin", range.start, range.end);
    let (place, temporary) = (folder.join(&file), folder.join(format!("{file}.tmp")));
    let mut sha = Sha256::new();
    let mut attempt = || -> Result<()> {
        fs::create_dir_all(&folder)?;
        let mut out = BufWriter::new(File::create(&temporary)?);
        for piece in rows.pieces(range.clone()) {
            let bytes: &[u8] = bytemuck::cast_slice(piece);
            sha.update(bytes);
            out.write_all(bytes)?;
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, &place)?;
        Ok(File::open(&folder)?.sync_all()?)
    };
    attempt().with_context(|| format!("writing {}", place.display()))?;
    Ok(Segment { file, first: range.start, end: range.end, sha256: hex(&sha.finalize()) })
}

/// Reads and verifies the segments of a checkpoint.
fn read_rows(run: &Path, stored: &StoredRows, storage: Storage) -> Result<Rows> {
    let held = stored.added.saturating_sub(stored.capacity as u64)..stored.added;
    let rows = Rows::new(stored.width, stored.capacity).kept(storage);
    let (mut rows, mut next) = (rows.starting_with(held.start), held.start);
    for segment in &stored.segments {
        let path = run.join("buffer").join(&segment.file);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(
            bytes.len() as u64 == (segment.end - segment.first) * 4 * stored.width as u64
                && hash(&bytes).sha256 == segment.sha256,
            "{} does not have the length and hash of its manifest: it was altered",
            path.display()
        );
        for (n, bytes) in (segment.first..segment.end).zip(bytes.chunks_exact(4 * stored.width)) {
            if n == next {
                let row = rows.push()?.iter_mut();
                row.zip(bytes.as_chunks().0).for_each(|(x, bytes)| *x = f32::from_le_bytes(*bytes));
                next += 1;
            }
        }
    }
    ensure!(next == held.end, "the segments in {} end with row {next} of {}", run.join("buffer").display(), held.end);
    Ok(rows)
}

/// The rows that the manifest of a checkpoint lists.
fn listed_rows(run: &Path, position: u64) -> Result<BTreeMap<String, StoredRows>> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(folder(run, position).join("manifest.json"))?)?;
    Ok(manifest.rows)
}

/// What the evaluations of a run are judged by, as its last checkpoint says; none where that is the mean return.
pub fn criterion(run: &Path) -> Option<Criterion> {
    let text = fs::read(folder(run, *positions(run).last()?).join("manifest.json")).ok()?;
    serde_json::from_slice::<Manifest>(&text).ok()?.run.criterion
}

/// Sets a damaged checkpoint aside, under a name that is not read again.
pub fn set_aside(run: &Path, position: u64) -> Result<()> {
    let place = folder(run, position);
    let aside = place.with_extension("damaged");
    let attempt = || {
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::rename(&place, &aside)
    };
    attempt().with_context(|| format!("setting {} aside", place.display()))
}

/// Removes all checkpoints but the last `keep` and the one at `best`, leftovers of interrupted writing, and segments of replay
/// buffers that no checkpoint lists.
pub fn rotate(run: &Path, keep: usize, best: Option<u64>) -> Result<()> {
    let all = positions(run);
    for &position in &all[..all.len().saturating_sub(keep)] {
        if best != Some(position) {
            fs::remove_dir_all(folder(run, position))?;
        }
    }
    for entry in fs::read_dir(run.join("checkpoints"))?.flatten() {
        if entry.file_name().to_string_lossy().ends_with(".tmp") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let buffer = run.join("buffer");
    if buffer.exists() {
        let mut listed = BTreeSet::new();
        for position in positions(run) {
            // What a damaged one lists nobody knows, so all segments stay.
            let Ok(rows) = listed_rows(run, position) else { return Ok(()) };
            listed.extend(rows.into_values().flat_map(|rows| rows.segments).map(|segment| segment.file));
        }
        for entry in fs::read_dir(&buffer)?.flatten() {
            if !listed.contains(entry.file_name().to_string_lossy().as_ref()) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// The folder of a checkpoint.
pub fn folder(run: &Path, position: u64) -> PathBuf {
    run.join("checkpoints").join(format!("{position:08}"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

fn hash(bytes: &[u8]) -> FileHash {
    FileHash { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_safetensors(snapshot: &Snapshot, metadata: Option<HashMap<String, String>>) -> Result<Vec<u8>> {
    let views = snapshot.arrays.iter().map(|(name, array)| {
        let (dtype, len, bytes) = match array {
            Array::F32(data) => (Dtype::F32, data.len(), bytemuck::cast_slice(data)),
            Array::F64(data) => (Dtype::F64, data.len(), bytemuck::cast_slice(data)),
            Array::U8(data) => (Dtype::U8, data.len(), data.as_slice()),
        };
        Ok((name.as_str(), TensorView::new(dtype, vec![len], bytes)?))
    });
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>>>()?, metadata)?)
}

fn from_safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Array>> {
    let file = SafeTensors::deserialize(bytes)?;
    let read = |(name, view): (String, TensorView)| {
        let data = view.data();
        let array = match view.dtype() {
            Dtype::F32 => Array::F32(data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            Dtype::F64 => Array::F64(data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()),
            Dtype::U8 => Array::U8(data.to_vec()),
            other => bail!("`{name}` is of type {other:?}"),
        };
        Ok((name, array))
    };
    file.tensors().into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fresh folder under the system's temporary one.
    fn run_folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("bregman-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a writable temporary folder");
        folder
    }

    fn snapshot(x: f32) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.put("params", Array::F32(vec![x, f32::MIN_POSITIVE, -0.0]));
        snapshot.put("mean", Array::F64(vec![0.1 + 0.2]));
        snapshot.put("env", Array::U8(vec![0, 255]));
        snapshot.state.insert("steps".into(), 7.into());
        snapshot
    }

    fn write_at(run: &Path, position: u64) {
        let state =
            RunState { recent: [(Return(0.1 + 0.2), 3), (Return(f64::INFINITY), 4)].into(), ..Default::default() };
        let logs = BTreeMap::from([("metrics.csv".to_string(), 12)]);
        let manifest = Manifest::new("seed = 1".into(), position, Progress::default(), state, logs);
        write(run, manifest, &snapshot(position as f32)).expect("written");
    }

    #[test]
    fn what_is_written_is_read() {
        let run = run_folder("round-trip");
        write_at(&run, 300);
        let (manifest, read_back) = read(&run, 300, Part::Whole(Storage::Auto)).expect("it is whole");
        assert_eq!(read_back, snapshot(300.0));
        assert_eq!(manifest.run_file, "seed = 1");
        let recent = [(Return(0.1 + 0.2), 3), (Return(f64::INFINITY), 4)];
        assert_eq!((manifest.logs["metrics.csv"], manifest.run.recent), (12, recent.into()));
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_another_whatever_a_kill_left_behind() {
        let run = run_folder("twice");
        for x in [1.0, 2.0] {
            fs::create_dir_all(run.join("checkpoints/.00000300.old.tmp/half")).expect("writable");
            let manifest =
                Manifest::new("seed = 1".into(), 300, Progress::default(), RunState::default(), BTreeMap::new());
            write(&run, manifest, &snapshot(x)).expect("written");
            assert!(read(&run, 300, Part::Whole(Storage::Auto)).expect("it is whole").1 == snapshot(x));
        }
        assert_eq!(fs::read_dir(run.join("checkpoints")).expect("a folder").count(), 1, "nothing else stays");
    }

    #[test]
    fn a_checkpoint_that_a_kill_caught_between_two_names_is_put_back() {
        let run = run_folder("between");
        write_at(&run, 300);
        let (place, old) = (folder(&run, 300), run.join("checkpoints/.00000300.old.tmp"));
        fs::rename(&place, &old).expect("it is there");
        fs::create_dir(run.join("checkpoints/.00000300.tmp")).expect("writable");
        assert_eq!(positions(&run), [0; 0]);
        recover(&run).expect("writable");
        assert_eq!(positions(&run), [300]);
        assert!(read(&run, 300, Part::Whole(Storage::Auto)).is_ok() && !old.exists());
        // Where the new one is in its place the old one is a leftover.
        fs::create_dir(&old).expect("writable");
        recover(&run).expect("writable");
        assert!(read(&run, 300, Part::Whole(Storage::Auto)).is_ok() && old.exists());
        recover(&run.join("nowhere")).expect("nothing to do");
    }

    /// A checkpoint at `added` with a buffer of 40,000 rows of `[n, −n]`, of which `added` have come.
    fn write_buffer(run: &Path, added: u64) -> Vec<String> {
        let mut rows = Rows::new(2, 40_000);
        (0..added).for_each(|n| rows.push().expect("room").copy_from_slice(&[n as f32, -(n as f32)]));
        let mut snapshot = snapshot(1.0);
        snapshot.rows.insert("replay".into(), rows);
        let manifest =
            Manifest::new("seed = 1".into(), added, Progress::default(), RunState::default(), BTreeMap::new());
        write(run, manifest, &snapshot).expect("written");
        let (manifest, read_back) = read(run, added, Part::Whole(Storage::Auto)).expect("it is whole");
        assert!(read_back == snapshot);
        assert!(read(run, added, Part::Policy).expect("it is whole").1.rows.is_empty());
        manifest.rows["replay"].segments.iter().map(|segment| segment.file.replace("000000000000", "0")).collect()
    }

    #[test]
    fn a_buffer_is_written_once_and_shared_by_checkpoints() {
        let run = run_folder("segments");
        // Less than 16,384 rows are written again with the next ones.
        assert_eq!(write_buffer(&run, 10_000), ["replay-0-000000010000.bin"]);
        assert_eq!(write_buffer(&run, 30_000), ["replay-0-000000030000.bin"]);
        let first = run.join("buffer/replay-000000000000-000000030000.bin");
        let modified = || fs::metadata(&first).and_then(|file| file.modified()).expect("it is there");
        let before = modified();
        let second = "replay-000000030000-000000060000.bin";
        assert_eq!(write_buffer(&run, 60_000), ["replay-0-000000030000.bin", second]);
        assert_eq!(modified(), before, "it is not written again");
        // 110,000 rows in all: of the first segments nothing is held any more.
        let large = "replay-000000070000-000000110000.bin";
        assert_eq!(write_buffer(&run, 110_000), [large]);

        let files = || {
            let entries = fs::read_dir(run.join("buffer")).expect("a folder").flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        fs::write(run.join("buffer/replay-x.bin.tmp"), "half").expect("writable");
        rotate(&run, 1, Some(60_000)).expect("rotated");
        assert_eq!(files(), ["replay-000000000000-000000030000.bin", second, large]);
        read(&run, 60_000, Part::Whole(Storage::Auto)).expect("the best is whole");
        // Of one whose manifest is lost nobody knows what it needs.
        let manifest = run.join("checkpoints/00060000/manifest.json");
        let text = fs::read(&manifest).expect("it is there");
        fs::write(&manifest, "{").expect("writable");
        rotate(&run, 1, Some(60_000)).expect("rotated");
        assert_eq!(files(), ["replay-000000000000-000000030000.bin", second, large]);
        fs::write(&manifest, text).expect("writable");
        rotate(&run, 1, None).expect("rotated");
        assert_eq!(files(), [large]);
        // Rows are read to where they will be kept.
        for (storage, on_disk) in [(Storage::Memory, false), (Storage::Disk, true)] {
            let (_, snapshot) = read(&run, 110_000, Part::Whole(storage)).expect("it is whole");
            assert_eq!(snapshot.rows["replay"].is_on_disk(), on_disk);
        }
    }

    #[test]
    fn a_segment_that_is_missing_is_written_anew_and_a_damaged_one_is_noticed() {
        let run = run_folder("segment-damage");
        write_buffer(&run, 20_000);
        write_buffer(&run, 40_000);
        let first = run.join("buffer/replay-000000000000-000000020000.bin");
        fs::remove_file(&first).expect("removed");
        assert!(
            format!("{:#}", read(&run, 40_000, Part::Whole(Storage::Auto)).expect_err("refused"))
                .starts_with("reading ")
        );
        assert_eq!(write_buffer(&run, 50_000), ["replay-000000010000-000000050000.bin"]);
        let file = run.join("buffer/replay-000000010000-000000050000.bin");
        let mut bytes = fs::read(&file).expect("it is there");
        bytes[9] ^= 1;
        fs::write(&file, bytes).expect("writable");
        assert!(
            format!("{:#}", read(&run, 50_000, Part::Whole(Storage::Auto)).expect_err("refused"))
                .ends_with("it was altered")
        );
    }

    #[test]
    fn damage_is_noticed() {
        let run = run_folder("damage");
        write_at(&run, 1);
        let file = folder(&run, 1).join("learner.safetensors");
        let mut bytes = fs::read(&file).expect("it is there");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(&file, &bytes).expect("writable");
        assert!(
            format!("{:#}", read(&run, 1, Part::Whole(Storage::Auto)).expect_err("refused"))
                .ends_with("it was altered")
        );
        fs::write(&file, &bytes[1..]).expect("writable");
        assert!(
            format!("{:#}", read(&run, 1, Part::Whole(Storage::Auto)).expect_err("refused"))
                .ends_with("it was truncated")
        );
        fs::write(folder(&run, 1).join("manifest.json"), "{").expect("writable");
        assert!(
            format!("{:#}", read(&run, 1, Part::Whole(Storage::Auto)).expect_err("refused"))
                .contains("manifest.json is damaged")
        );
    }

    #[test]
    fn the_last_ones_and_the_best_are_kept() {
        let run = run_folder("rotation");
        for position in [100, 200, 300, 400] {
            write_at(&run, position);
        }
        fs::create_dir(run.join("checkpoints/.00000500.tmp")).expect("writable");
        rotate(&run, 2, Some(100)).expect("rotated");
        assert_eq!(positions(&run), [100, 300, 400]);
        assert!(!run.join("checkpoints/.00000500.tmp").exists());
    }
}
