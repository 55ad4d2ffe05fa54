//! The page that `bregman report` writes.

mod common;

use common::{PENDULUM, folder, run, write};

#[test]
fn the_page_refers_to_nothing_outside_and_its_links_lead_to_files() {
    let place = folder("report");
    write(&place, &PENDULUM.replace("12_000", "900"));
    let (code, said) = run(&place, "sweep run.toml --seeds 2 --grid agent.ppo.gamma=0.9,0.99 --out runs/all");
    assert_eq!(code, 0, "{said}");
    let (code, said) = run(&place, "report runs absent --out pages/report.html");
    assert_eq!((code, said.as_str()), (0, "reading absent: No such file or directory (os error 2)"));
    let page = std::fs::read_to_string(place.join("pages/report.html")).expect("it is there");

    for outside in ["http:", "https:", "src=", "url(", "@import", "<script", "<link", "<iframe", "<object", "\"//"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"), "the page forbids itself the network");
    let links: Vec<&str> = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(links.len(), 4 * 6);
    for link in links {
        assert!(link.starts_with("../runs/all/gamma=0.9") && place.join("pages").join(link).is_file(), "{link}");
    }

    // Curves, intervals, improvement; tables; settings; versions; what is missing.
    assert_eq!(page.matches("<figure").count(), 3);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    for words in [
        "probability of improvement",
        "<td>ppo gamma=0.9</td>",
        "gae_lambda = 0.95",
        "seeds 1 2",
        env!("CARGO_PKG_VERSION"),
        "gymnasium ",
        "reading absent",
        "width=device-width",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn a_page_of_one_run_says_so_and_tables_can_be_scrolled_and_broken_into_lines() {
    let place = folder("report-one");
    write(&place, &PENDULUM.replace("12_000", "900").replace("every = 3_000", "every = 300"));
    assert_eq!(run(&place, "train run.toml --out runs/s1").0, 0);
    assert_eq!(run(&place, "report runs --out one.html"), (0, String::new()));
    let page = std::fs::read_to_string(place.join("one.html")).expect("it is there");
    for words in
        ["1 run, written", "seed 3</summary>", "Pendulum-v1: one run.", "One run each, so there are no intervals"]
    {
        assert!(page.contains(words), "{words}");
    }
    for words in ["1 runs", "95 % interval", "Left out", "interval, Pendulum"] {
        assert!(!page.contains(words), "{words}");
    }
    // Only the tables scroll sideways, by keyboard too; long cells and the command are broken into lines.
    assert_eq!(page.matches("<table").count(), page.matches("<div class=\"wide\" tabindex=\"0\"><table").count());
    assert!(page.contains("<span>--out</span> <span>runs/s1</span>"), "an argument is not broken at its dashes");

    // A row of metrics.csv that stands out is drawn as a gap, and what is left out is told with its code set as such.
    let log = place.join("runs/s1/metrics.csv");
    let text = std::fs::read_to_string(&log).expect("it is there");
    let (rows, last) = text.trim_end().rsplit_once('\n').expect("rows");
    let column = text.lines().next().expect("a header").split(',').position(|name| name == "eval/mean_reward");
    let mut cells: Vec<&str> = last.split(',').collect();
    cells[column.expect("there is one")] = "NaN";
    std::fs::create_dir_all(place.join("runs/s2")).expect("writable");
    std::fs::copy(place.join("runs/s1/run.toml"), place.join("runs/s2/run.toml")).expect("writable");
    std::fs::write(place.join("runs/s2/metrics.csv"), format!("{rows}\n{}\n", cells.join(","))).expect("writable");
    assert_eq!(run(&place, "report runs --out two.html").0, 0);
    let page = std::fs::read_to_string(place.join("two.html")).expect("it is there");
    assert!(page.contains("is left out: <code>eval/mean_reward</code> ends at NaN"), "{page}");
}

#[test]
fn nothing_to_report_is_bad_input() {
    let place = folder("report-empty");
    std::fs::create_dir(place.join("runs")).expect("writable");
    let (code, said) = run(&place, "report runs");
    assert_eq!(code, 2);
    assert!(said.ends_with("runs holds no run: there is no run.toml in it or below"), "{said}");
    assert!(!place.join("report.html").exists());
}
