//! `bregman doctor`: what is found, its version, what is missing, and the command that mends it.

use crate::agents::nn::Device;
use crate::terminal::out;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One line of the report.
struct Finding {
    part: &'static str,
    /// What was found, or why it will not do.
    found: Result<String, String>,
    /// The command or the step that mends it.
    remedy: &'static str,
    /// Whether training works without it.
    optional: bool,
}

/// Looks at everything the program stands on and prints a line for each; whether nothing that is needed is missing.
///
/// # Errors
/// Standard output that cannot be written.
pub fn run() -> anyhow::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let findings = [
        needed("cargo", cargo(), "rustup update stable, or https://rustup.rs"),
        needed("C++ compiler", first_line("c++", &["--version"]), "apt install g++"),
        needed("Python", python(&venv(root)), "scripts/setup"),
        needed("Python packages", packages(root), "rm -rf .venv; scripts/setup"),
        needed("Gymnasium", gymnasium(), "scripts/setup"),
        needed("libtorch", libtorch(root), "rm -rf .libtorch; scripts/setup"),
        needed("MuJoCo", mujoco(root), "scripts/setup"),
        needed("MuJoCo models", models(&venv(root)), "rm -rf .venv; scripts/setup"),
        optional("off-screen rendering", rendering(), "apt install libegl1, or libosmesa6"),
        needed("processor", Ok(processor()), ""),
        optional("GPU", gpu(), "training uses the processor"),
        needed("memory", memory(), ""),
        needed("disk", disk(root), "free some space"),
    ];
    let mut well = true;
    for Finding { part, found, remedy, optional } in findings {
        match found {
            Ok(found) => out!("ok       {part:<22} {found}")?,
            Err(why) if optional => out!("absent   {part:<22} {why}; {remedy}")?,
            Err(why) => {
                out!("missing  {part:<22} {why}; mend it with: {remedy}")?;
                well = false;
            }
        }
    }
    Ok(well)
}

fn needed(part: &'static str, found: Result<String, String>, remedy: &'static str) -> Finding {
    Finding { part, found, remedy, optional: false }
}

fn optional(part: &'static str, found: Result<String, String>, remedy: &'static str) -> Finding {
    Finding { part, found, remedy, optional: true }
}

fn gpu() -> Result<String, String> {
    let first = Device::Cuda(0);
    first.available().map(|()| format!("device = \"{first}\""))
}

fn venv(root: &Path) -> PathBuf {
    std::env::var_os("BREGMAN_VENV").map_or_else(|| root.join(".venv"), PathBuf::from)
}

/// Standard output of a command that succeeds.
fn output(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Result<String, String> {
    let name = Path::new(program.as_ref()).display().to_string();
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{name}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} failed: {}", said.trim().lines().last().unwrap_or_default()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

fn first_line(program: &str, arguments: &[&str]) -> Result<String, String> {
    output(program, arguments).map(|text| text.lines().next().unwrap_or_default().into())
}

/// Cargo, at least as new as `rust-version` asks.
fn cargo() -> Result<String, String> {
    let text = first_line("cargo", &["--version"])?;
    let numbers = |version: &str| -> Vec<u32> { version.split('.').filter_map(|part| part.parse().ok()).collect() };
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    let version = text.split(' ').nth(1).unwrap_or_default();
    if numbers(version) < numbers(wanted) { Err(format!("{text}, and {wanted} or newer is needed")) } else { Ok(text) }
}

/// The virtual environment's Python and its shared library.
fn python(venv: &Path) -> Result<String, String> {
    let script = "import os, platform, sysconfig; \
                  library = os.path.join(sysconfig.get_config_var('LIBDIR'), sysconfig.get_config_var('LDLIBRARY')); \
                  print(platform.python_version(), library if library.endswith('.so') and os.path.exists(library) else '')";
    let text = output(venv.join("bin/python"), &["-I", "-c", script])?;
    match text.split_once(' ') {
        Some((version, library)) => Ok(format!("{version}, {library}")),
        None => Err(format!("Python {text} has no shared libpython")),
    }
}

/// Every package that requirements.txt pins for this Python, at its version.
fn packages(root: &Path) -> Result<String, String> {
    let script = "import sys\n\
        from importlib.metadata import PackageNotFoundError, version\n\
        from pip._vendor.packaging.requirements import Requirement\n\
        lines = [line.split('#')[0].strip() for line in open(sys.argv[1])]\n\
        wanted = [r for r in map(Requirement, filter(None, lines)) if not r.marker or r.marker.evaluate()]\n\
        def found(r):\n\
        \x20   try: return version(r.name)\n\
        \x20   except PackageNotFoundError: return 'absent'\n\
        wrong = [f'{r.name} is {found(r)}, not {r.specifier}' for r in wanted if found(r) not in r.specifier]\n\
        print('; '.join(wrong) or f'ok {len(wanted)} packages at their pinned versions')";
    let file = root.join("requirements.txt");
    let text = output(venv(root).join("bin/python"), &["-I", "-c", script, &file.display().to_string()])?;
    text.strip_prefix("ok ").map(String::from).ok_or(text.clone())
}

fn gymnasium() -> Result<String, String> {
    let ids = crate::envs::gymnasium::registered_ids().map_err(|e| e.to_string())?;
    Ok(format!("{} environments", ids.len()))
}

fn libtorch(root: &Path) -> Result<String, String> {
    let folder = root.join(".libtorch");
    let library = folder.join("lib/libtorch_cpu.so");
    if !library.exists() {
        return Err(format!("{} is not there", library.display()));
    }
    let header = folder.join("include/torch/headeronly/version.h");
    let text = std::fs::read_to_string(&header).map_err(|e| format!("{}: {e}", header.display()))?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("#define TORCH_VERSION_{name} ")));
        line.unwrap_or("?").trim().to_string()
    };
    Ok(format!("{}.{}.{}, {}", number("MAJOR"), number("MINOR"), number("PATCH"), folder.display()))
}

fn mujoco(root: &Path) -> Result<String, String> {
    let link = root.join(".mujoco/lib/libmujoco.so");
    let library = link.canonicalize().map_err(|e| format!("{}: {e}", link.display()))?;
    Ok(library.display().to_string())
}

fn models(venv: &Path) -> Result<String, String> {
    let folder = std::env::var_os("BREGMAN_MUJOCO_ASSETS").map(PathBuf::from).or_else(|| {
        let versions = std::fs::read_dir(venv.join("lib")).ok()?.flatten();
        let assets = versions.map(|entry| entry.path().join("site-packages/gymnasium/envs/mujoco/assets"));
        assets.into_iter().find(|path| path.is_dir())
    });
    let folder = folder.ok_or_else(|| format!("no Gymnasium models under {}", venv.display()))?;
    let files = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(format!("{} files in {}", files.count(), folder.display()))
}

fn rendering() -> Result<String, String> {
    let cache = output("ldconfig", &["-p"]).or_else(|_| output("/sbin/ldconfig", &["-p"]))?;
    let names = [("libEGL.so", "EGL"), ("libOSMesa.so", "OSMesa")];
    let found: Vec<&str> = names.iter().filter(|(file, _)| cache.contains(file)).map(|(_, name)| *name).collect();
    if found.is_empty() { Err("neither EGL nor OSMesa".into()) } else { Ok(found.join(", ")) }
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.split_once(": ").map(|(_, value)| value));
    let flags: Vec<&str> = field("flags").unwrap_or_default().split(' ').collect();
    let known = [("avx2", "AVX2"), ("avx512f", "AVX-512"), ("avx512_bf16", "AVX-512 bf16"), ("amx_bf16", "AMX bf16")];
    let has: Vec<&str> = known.iter().filter(|(flag, _)| flags.contains(flag)).map(|(_, name)| *name).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores, {}", field("model name").unwrap_or("unknown"), has.join(", "))
}

fn memory() -> Result<String, String> {
    let info = std::fs::read_to_string("/proc/meminfo").map_err(|e| format!("/proc/meminfo: {e}"))?;
    let total =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    total.map(|kilobytes| format!("{} GiB", kilobytes >> 20)).ok_or_else(|| "/proc/meminfo names no MemTotal".into())
}

fn disk(root: &Path) -> Result<String, String> {
    let text = output("df", &["-Pk", &root.display().to_string()])?;
    let free = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    match free {
        Some(kilobytes) if kilobytes >> 20 == 0 => Err(format!("{} MiB free", kilobytes >> 10)),
        Some(kilobytes) => Ok(format!("{} GiB free", kilobytes >> 20)),
        None => Err("df says nothing that can be read".into()),
    }
}
