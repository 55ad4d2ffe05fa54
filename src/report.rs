//! `bregman report`: a comparison as one HTML page that needs nothing else, no network and no script.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::checkpoint::write_whole;
use crate::compare::plot::Plots;
use crate::compare::{Comparison, Group, Selection, table};
use crate::terminal::{note, out};
use crate::{BadInput, Bregman};

/// Arguments of `bregman report`.
#[derive(Args)]
pub struct ReportArgs {
    #[command(flatten)]
    selection: Selection,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

/// Files of a run that the page links to, where they exist.
const LINKED: [&str; 6] = ["run.toml", "meta.json", "metrics.csv", "timing.csv", "episodes.csv", "console.log"];

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1e1e1e; background: #fff; max-width: 1440px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 600px; }
figcaption, .small { font-size: .875rem; color: #555; } figcaption, li, summary { overflow-wrap: anywhere; }
.wide { overflow-x: auto; background: linear-gradient(to right, #fff 30%, #fff0) 0 0 / 3rem 100%, linear-gradient(to left, #fff 30%, #fff0) 100% 0 / 3rem 100%,
  linear-gradient(to right, #0003, #0000) 0 0 / .8rem 100%, linear-gradient(to left, #0003, #0000) 100% 0 / .8rem 100%; background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #ddd; white-space: nowrap; vertical-align: baseline; }
td.words, th.words { white-space: normal; min-width: 16rem; } .words { overflow-wrap: anywhere; } .words span { display: inline-block; }
details { margin: .5rem 0; } summary { cursor: pointer; padding: .4rem 0; } pre { overflow-x: auto; background: #f5f5f5; padding: .7rem; font-size: .8rem; }
a { color: #0062a3; } td a { display: inline-block; padding: .2rem .5rem .2rem 0; }
";

/// Writes the page.
pub fn report(args: &ReportArgs, bregman: &Bregman) -> Result<()> {
    let comparison = Comparison::read(args.selection.clone(), bregman)?;
    comparison.notes.iter().for_each(|note| note!("{note}"));
    let folder = match args.out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(|e| BadInput(format!("{}: {e}", folder.display())))?;
    write_whole(&args.out, page(&comparison, folder)?.as_bytes())?;
    out!("{}", args.out.display())?;
    Ok(())
}

/// The page, with links relative to `folder`.
fn page(comparison: &Comparison, folder: &Path) -> Result<String> {
    let runs: usize = comparison.groups.iter().map(|group| group.runs.len()).sum();
    let few = |names: Vec<&str>, what: &str| match (names.len(), names.join(", ")) {
        (1, name) => name,
        (2 | 3, names) if names.chars().count() <= 60 => names,
        (many, _) => format!("{many} {what}"),
    };
    let title = format!("{} on {}", few(comparison.labels(), "agents"), few(comparison.envs(), "environments"));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p class=\"small\">{runs} {}, written by bregman {}.</p>\n",
        if runs == 1 { "run" } else { "runs" },
        env!("CARGO_PKG_VERSION"),
        title = escape(&title),
    );
    figures(comparison, &mut out)?;
    let _ = writeln!(out, "<h2>Results</h2>\n{}", table::html(comparison, words));
    if !comparison.notes.is_empty() {
        let _ = writeln!(out, "<h2>Left out</h2>\n<ul>");
        comparison.notes.iter().for_each(|note| out.push_str(&format!("<li>{}</li>\n", words(note))));
        let _ = writeln!(out, "</ul>");
    }
    let _ = writeln!(out, "<h2>Settings</h2>");
    for group in &comparison.groups {
        settings(group, &mut out)?;
    }
    run_table(comparison, folder, &mut out);
    versions(comparison, &mut out);
    out.push_str("</body>\n</html>\n");
    Ok(out)
}

fn figures(comparison: &Comparison, out: &mut String) -> Result<()> {
    let plots = Plots::new(comparison);
    let _ = writeln!(out, "<h2><code>{}</code></h2>\n<div class=\"figures\">", escape(&comparison.selection.metric));
    // The panels of the figure of all curves stand on the page one by one, large enough for a phone.
    for figure in plots.figures().into_iter().filter(|figure| !figure.is_composed()) {
        // Inside HTML the name space goes without saying.
        let svg = plots.svg(&figure)?.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
        let caption = escape(&plots.caption(&figure));
        let _ = writeln!(out, "<figure role=\"group\">{svg}<figcaption>{caption}</figcaption></figure>");
    }
    let _ = writeln!(out, "</div>");
    Ok(())
}

/// The run file of a group, without what differs between its runs.
fn settings(group: &Group, out: &mut String) -> Result<()> {
    let text = group.runs[0].file.to_toml()?;
    let same = |line: &&str| !line.starts_with("seed = ");
    let text: Vec<&str> = text.lines().filter(same).collect();
    let seeds: Vec<String> = group.runs.iter().map(|run| run.file.seed.to_string()).collect();
    let _ = writeln!(
        out,
        "<details><summary>{} on {}, {} {}</summary>\n<pre>{}</pre></details>",
        escape(&group.label),
        escape(&group.env),
        if seeds.len() == 1 { "seed" } else { "seeds" },
        seeds.join(" "),
        escape(&text.join("\n"))
    );
    Ok(())
}

fn run_table(comparison: &Comparison, folder: &Path, out: &mut String) {
    let _ = writeln!(
        out,
        "<h2>Runs</h2>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>environment</th><th>agent</th><th>seed</th><th>score</th>\
         <th>minutes</th><th>files</th></tr>"
    );
    for group in &comparison.groups {
        for run in &group.runs {
            let link = |name: &&str| {
                let path = relative(folder, &run.dir.join(name));
                format!("<a href=\"{}\">{name}</a>", escape(&url(&path)))
            };
            let links: String = LINKED.iter().filter(|name| run.dir.join(name).is_file()).map(link).collect();
            let minutes = table::minutes(run.series.seconds.last().copied().unwrap_or(f64::NAN));
            let _ = writeln!(
                out,
                "<tr>{}{}<td>{}</td><td>{}</td><td>{minutes}</td><td>{links}</td></tr>",
                cell(&group.env),
                cell(&group.label),
                run.file.seed,
                table::score(run.score),
            );
        }
    }
    let _ = writeln!(out, "</table></div>");
}

/// What the runs were made with and on, each combination once, and a command that made one of them.
fn versions(comparison: &Comparison, out: &mut String) {
    let mut seen: BTreeMap<[String; 4], (usize, String)> = BTreeMap::new();
    for run in comparison.groups.iter().flat_map(|group| &group.runs) {
        let text = std::fs::read_to_string(run.dir.join("meta.json")).unwrap_or_default();
        let meta: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "unknown".into(),
            other => other.to_string(),
        };
        let machine = &meta["machine"];
        let packages = meta["packages"].as_object().into_iter().flatten();
        let packages: Vec<String> = packages.map(|(name, version)| format!("{name} {}", word(version))).collect();
        let command: Vec<String> = meta["command"].as_array().into_iter().flatten().map(&word).collect();
        // A run that was resumed with another build names all of them.
        let sittings = std::iter::once(&meta).chain(meta["resumed"].as_array().into_iter().flatten());
        let mut revisions: Vec<String> = sittings.map(|sitting| word(&sitting["revision"])).collect();
        revisions.dedup();
        let key = [
            format!("{} ({})", word(&meta["version"]), revisions.join(", then ")),
            format!("{}, {} cores", word(&machine["processor"]), word(&machine["cores"])),
            word(&machine["system"]),
            packages.join(", "),
        ];
        seen.entry(key).or_insert((0, command.join(" "))).0 += 1;
    }
    let _ = writeln!(
        out,
        "<h2>Versions and machines</h2>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>runs</th><th>bregman</th><th>processor</th>\
         <th>system</th><th>packages</th></tr>"
    );
    let mut commands = String::new();
    for ([version, processor, system, packages], (count, command)) in seen {
        let cells = [version, processor, system, packages].map(|text| cell(&text)).concat();
        // A line breaks between arguments rather than after the dashes of one.
        let command: Vec<String> = command.split(' ').map(|part| format!("<span>{}</span>", escape(part))).collect();
        let command = command.join(" ");
        let _ = writeln!(out, "<tr><td>{count}</td>{cells}</tr>");
        commands.push_str(&format!("<p class=\"words\"><code>{command}</code></p>\n"));
    }
    let _ = writeln!(out, "</table></div>\n<h3>A command of each row</h3>\n{commands}");
}

/// `path` as seen from `folder`; both exist.
fn relative(folder: &Path, path: &Path) -> PathBuf {
    let (Ok(folder), Ok(whole)) = (folder.canonicalize(), path.canonicalize()) else { return path.into() };
    let same = folder.components().zip(whole.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(same).map(|_| Component::ParentDir);
    up.chain(whole.components().skip(same)).collect()
}

/// A path as a relative reference.
fn url(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/=,+@".contains(&byte);
    let text = path.to_string_lossy();
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A cell of a table, broken into lines where it is long.
fn cell(text: &str) -> String {
    let class = if text.chars().count() > table::LONG { " class=\"words\"" } else { "" };
    format!("<td{class}>{}</td>", escape(text))
}

/// Text with `code` in backticks.
fn words(text: &str) -> String {
    let part = |(i, part): (usize, &str)| match i % 2 {
        0 => escape(part),
        _ => format!("<code>{}</code>", escape(part)),
    };
    text.split('`').enumerate().map(part).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_and_their_odd_characters_encoded() {
        assert_eq!(url(Path::new("../gamma=0.9,a b/100%#1")), "../gamma=0.9,a%20b/100%25%231");
        let place = std::env::temp_dir().join(format!("bregman-relative-{}", std::process::id()));
        std::fs::create_dir_all(place.join("a/b")).expect("writable");
        std::fs::create_dir_all(place.join("c")).expect("writable");
        assert_eq!(relative(&place.join("c"), &place.join("a/b")), Path::new("../a/b"));
        assert_eq!(relative(&place, &place.join("a/b")), Path::new("a/b"));
    }
}
