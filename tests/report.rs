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
fn nothing_to_report_is_bad_input() {
    let place = folder("report-empty");
    std::fs::create_dir(place.join("runs")).expect("writable");
    let (code, said) = run(&place, "report runs");
    assert_eq!(code, 2);
    assert!(said.ends_with("runs holds no run: there is no run.toml in it or below"), "{said}");
    assert!(!place.join("report.html").exists());
}
