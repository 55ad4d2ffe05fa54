//! Pictures of a comparison: curves with bands, interval estimates, performance profiles, probabilities of improvement.
//!
//! Every figure is drawn by one function for any back end, so that SVG and PNG are the same picture. Lines are
//! interquartile means over runs, bands and bars 95 % bootstrap intervals.

use std::ops::Range;
use std::path::Path;
use std::sync::Once;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::table::steps;
use super::{Aggregate, Axis, Comparison, Curve, Estimate};
use crate::checkpoint::write_whole;
use crate::stats::{self, STATISTICS};

/// A label, its colour's number and its estimate.
type IntervalRow = (String, usize, Estimate);

/// Okabe and Ito's colours, which remain apart for colour-blind eyes; a grey stands for their yellow, which is
/// faint on white.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(140, 140, 140),
];

/// Size of one panel in units of SVG; PNGs have `PIXELS` of them for each. A phone shows a panel nearly at that size.
const PANEL: (u32, u32) = (400, 280);
const PIXELS: f64 = 2.0;

/// Room for the bar of one row of a chart of intervals, and for such a chart's axis and title.
const BAR: u32 = 20;
const FRAME: u32 = 70;

/// Pairs of labels up to which their probabilities of improvement are drawn.
const PAIRS: usize = 15;

/// Room for one line of text.
const LINE: u32 = 15;

/// Room left and right of a label in a legend: the piece of line, and the gap to the next one.
const KEY: u32 = 24;
const GAP: u32 = 14;

/// Sizes of type: labels, and titles from the smallest that is readable.
const LABEL: u32 = 13;
const TITLE: (u32, u32) = (10, 16);

const FONT: &str = "sans-serif";

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Learning curves on one environment.
    Curve(String),
    /// Learning curves on all, a panel each.
    Curves,
    /// Interval estimates over environments, or on one.
    Intervals,
    /// Performance profiles over environments.
    Profile,
    /// Probabilities of improvement.
    Improvement,
}

impl Figure {
    /// Its file's name, without an ending.
    pub fn name(&self) -> String {
        match self {
            Figure::Curve(env) => format!("curve-{}", env.replace('/', "_")),
            Figure::Curves => "curves".into(),
            Figure::Intervals => "intervals".into(),
            Figure::Profile => "profile".into(),
            Figure::Improvement => "improvement".into(),
        }
    }

    /// Whether it only puts other figures side by side.
    pub fn is_composed(&self) -> bool {
        *self == Figure::Curves
    }
}

/// A comparison with everything that its pictures need.
pub struct Plots<'a> {
    comparison: &'a Comparison,
    labels: Vec<&'a str>,
    /// Environment, number of the label, curve.
    curves: Vec<(&'a str, usize, Curve)>,
}

/// Draws every figure into `folder`, as SVG and PNG.
pub fn save(comparison: &Comparison, folder: &Path) -> Result<()> {
    let plots = Plots::new(comparison);
    for figure in plots.figures() {
        let path = |ending: &str| folder.join(format!("{}.{ending}", figure.name()));
        write_whole(&path("svg"), plots.svg(&figure)?.as_bytes())?;
        write_whole(&path("png"), &plots.png(&figure)?)?;
    }
    Ok(())
}

impl<'a> Plots<'a> {
    /// Computes the curves.
    pub fn new(comparison: &'a Comparison) -> Plots<'a> {
        let labels = comparison.labels();
        let number = |label: &str| labels.iter().position(|&other| other == label).unwrap_or(0);
        let axis = comparison.selection.x;
        let curves = comparison
            .groups
            .iter()
            .map(|group| (group.env.as_str(), number(&group.label), group.curve(axis)))
            .collect();
        Plots { comparison, labels, curves }
    }

    /// The figures that make sense here.
    pub fn figures(&self) -> Vec<Figure> {
        let envs = self.comparison.envs();
        let mut figures: Vec<Figure> = envs.iter().map(|env| Figure::Curve(env.to_string())).collect();
        if envs.len() > 1 {
            figures.push(Figure::Curves);
        }
        let bars = |(_, rows): &(String, Vec<IntervalRow>)| rows.iter().any(|(_, _, e)| e.interval.is_some());
        if (envs.len() == 1 || self.comparison.aggregate.is_some()) && self.intervals().iter().any(bars) {
            figures.push(Figure::Intervals);
        }
        if self.comparison.aggregate.is_some() {
            figures.push(Figure::Profile);
        }
        // More pairs than that are read in the table.
        if (1..=PAIRS).contains(&self.comparison.improvements().len()) {
            figures.push(Figure::Improvement);
        }
        figures
    }

    /// What a figure shows, in a sentence.
    pub fn caption(&self, figure: &Figure) -> String {
        let many = |of: Option<&str>| {
            let mut groups = self.comparison.groups.iter();
            groups.any(|group| of.is_none_or(|env| env == group.env) && group.runs.len() > 1)
        };
        let curves = |of| if many(of) { "interquartile mean over runs and its 95 % interval" } else { "one run" };
        match figure {
            Figure::Curve(env) => format!("{env}: {}.", curves(Some(env))),
            Figure::Curves => format!("All environments: {}.", curves(None)),
            Figure::Intervals => "Estimates with 95 % intervals.".into(),
            Figure::Profile => "Part of the runs that score above τ.".into(),
            Figure::Improvement => "Probability that a run of X scores higher than one of Y.".into(),
        }
    }

    /// A figure as SVG.
    pub fn svg(&self, figure: &Figure) -> Result<String> {
        let mut svg = String::new();
        let canvas = Canvas { size: self.size(figure), scale: 1.0 };
        let root = SVGBackend::with_string(&mut svg, canvas.size).into_drawing_area();
        self.draw(figure, &root, &canvas)?;
        drop(root);
        Ok(svg)
    }

    /// A figure as PNG.
    fn png(&self, figure: &Figure) -> Result<Vec<u8>> {
        let (width, height) = self.size(figure);
        let size = ((f64::from(width) * PIXELS) as u32, (f64::from(height) * PIXELS) as u32);
        let mut pixels = vec![255_u8; size.0 as usize * size.1 as usize * 3];
        {
            let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
            self.draw(figure, &root, &Canvas { size, scale: PIXELS })?;
        }
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, size.0, size.1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&pixels)?;
        Ok(png)
    }

    fn size(&self, figure: &Figure) -> (u32, u32) {
        let chart = |rows: &[IntervalRow]| rows.iter().map(|(label, ..)| row_height(label)).sum::<u32>() + FRAME;
        let legend = self.legend_height(PANEL.0);
        match figure {
            Figure::Curve(_) | Figure::Profile => (PANEL.0, PANEL.1 + legend),
            Figure::Curves => {
                let (columns, rows) = grid(self.comparison.envs().len());
                let width = PANEL.0 * columns as u32;
                (width, PANEL.1 * rows as u32 + self.legend_height(width))
            }
            Figure::Intervals => (PANEL.0, self.intervals().iter().map(|(_, rows)| chart(rows)).sum()),
            Figure::Improvement => (PANEL.0, chart(&self.improvements())),
        }
    }

    /// One label has no legend: titles say it.
    fn legend_height(&self, width: u32) -> u32 {
        if self.labels.len() < 2 { 0 } else { self.legend_places(width).1 }
    }

    /// Each label's place and lines of text, as many labels side by side as fit; and the height of all.
    fn legend_places(&self, width: u32) -> (Vec<(u32, u32, Vec<String>)>, u32) {
        let (mut places, mut x, mut y, mut height) = (Vec::new(), 10, 4, 0);
        for label in &self.labels {
            let lines = wrapped(label, width.saturating_sub(10 + KEY + GAP), LABEL);
            let needed = lines.iter().map(|line| text_width(line, LABEL)).max().unwrap_or(0) + KEY + GAP;
            if x + needed > width && x > 10 {
                (x, y, height) = (10, y + height, 0);
            }
            height = height.max(lines.len() as u32 * LINE + 8);
            places.push((x, y, lines));
            x += needed;
        }
        (places, y + height)
    }

    fn draw<DB: DrawingBackend>(&self, figure: &Figure, root: &Area<DB>, canvas: &Canvas) -> Result<()> {
        register_font();
        root.fill(&WHITE).map_err(plain)?;
        match figure {
            Figure::Curve(env) => {
                let rest = self.legend(root, canvas)?;
                self.curve_panel(env, &rest, canvas)?;
            }
            Figure::Curves => {
                let rest = self.legend(root, canvas)?;
                let envs = self.comparison.envs();
                let (columns, rows) = grid(envs.len());
                for (env, panel) in envs.iter().zip(rest.split_evenly((rows, columns))) {
                    self.curve_panel(env, &panel, canvas)?;
                }
            }
            Figure::Intervals => {
                let panels = self.intervals();
                for ((name, rows), panel) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
                    interval_panel(name, rows, None, &panel, canvas)?;
                }
            }
            Figure::Profile => {
                let rest = self.legend(root, canvas)?;
                self.profile(&rest, canvas)?;
            }
            Figure::Improvement => {
                interval_panel("probability of improvement", &self.improvements(), Some(0.0..1.0), root, canvas)?;
            }
        }
        root.present().map_err(plain)
    }

    /// Draws the legend and returns what is left.
    fn legend<DB: DrawingBackend>(&self, root: &Area<DB>, canvas: &Canvas) -> Result<Area<DB>> {
        let width = (f64::from(canvas.size.0) / canvas.scale) as u32;
        let height = self.legend_height(width);
        if height == 0 {
            return Ok(root.clone());
        }
        let (top, rest) = root.split_vertically(canvas.px(height));
        for (i, (x, y, lines)) in self.legend_places(width).0.into_iter().enumerate() {
            let place = |dx: u32, dy: u32| (canvas.px(x + dx), canvas.px(y + dy));
            let stroke = color(i).stroke_width(canvas.px(3) as u32);
            // A piece of the curve's own line, 18 long.
            let dash = dash(i).unwrap_or(18);
            for start in (0..18).step_by((dash + SPACE) as usize) {
                let ends = vec![place(start, 8), place((start + dash).min(18), 8)];
                top.draw(&PathElement::new(ends, stroke)).map_err(plain)?;
            }
            for (k, line) in lines.into_iter().enumerate() {
                top.draw(&Text::new(line, place(KEY, k as u32 * LINE + 4), canvas.font(LABEL))).map_err(plain)?;
            }
        }
        Ok(rest)
    }

    fn curve_panel<DB: DrawingBackend>(&self, env: &str, area: &Area<DB>, canvas: &Canvas) -> Result<()> {
        let selection = &self.comparison.selection;
        let curves: Vec<(usize, &Curve)> = self
            .curves
            .iter()
            .filter(|(of, _, curve)| *of == env && !curve.x.is_empty())
            .map(|(_, i, c)| (*i, c))
            .collect();
        let heights = curves.iter().flat_map(|(_, curve)| {
            curve.center.iter().copied().chain(curve.band.iter().flat_map(|&(low, high)| [low, high]))
        });
        let y = padded(heights);
        let end = curves.iter().filter_map(|(_, curve)| curve.x.last()).fold(f64::MIN_POSITIVE, |a, &b| a.max(b));
        // Room for the half of a line or a dot that lies beyond its last point.
        let x = 0.0..end * 1.02;
        let agent = if self.labels.len() == 1 { format!(", {}", self.labels[0]) } else { String::new() };
        let (title, size) = title(&format!("{env}{agent}"));
        let mut chart = ChartBuilder::on(area)
            .caption(title, canvas.font(size))
            .margin(canvas.px(8))
            .margin_right(canvas.px(22))
            .x_label_area_size(canvas.px(38))
            .y_label_area_size(canvas.px(66))
            .build_cartesian_2d(x, y)
            .map_err(plain)?;
        let by_time = selection.x == Axis::Wall;
        let written = |x: &f64| if by_time { short(x / 60.0) } else { steps(*x) };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.1))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&written)
            .y_label_formatter(&|y| short(*y))
            .x_desc(if by_time { "minutes" } else { self.comparison.axis_words() })
            .y_desc(&selection.metric)
            .axis_desc_style(canvas.font(LABEL))
            .label_style(canvas.font(LABEL))
            .draw()
            .map_err(plain)?;
        for (i, curve) in &curves {
            for piece in curve.pieces().filter(|_| !curve.band.is_empty()) {
                let (x, band) = (&curve.x[piece.clone()], &curve.band[piece]);
                let low = x.iter().zip(band).map(|(&x, &(low, _))| (x, low));
                let high = x.iter().zip(band).map(|(&x, &(_, high))| (x, high)).rev();
                let outline: Vec<(f64, f64)> = low.chain(high).collect();
                chart.draw_series([Polygon::new(outline, color(*i).mix(0.18).filled())]).map_err(plain)?;
            }
        }
        // After all bands, so that none lies over a line.
        for (i, curve) in &curves {
            for piece in curve.pieces() {
                let points: Vec<(f64, f64)> = piece.map(|k| (curve.x[k], curve.center[k])).collect();
                if let [point] = points[..] {
                    let dot = Circle::new(point, canvas.px(3), color(*i).filled());
                    chart.draw_series([dot]).map_err(plain)?;
                } else {
                    draw_line(&mut chart, points, *i, canvas)?;
                }
            }
        }
        Ok(())
    }

    /// Rows of the chart of probabilities.
    fn improvements(&self) -> Vec<IntervalRow> {
        let improvements = self.comparison.improvements().into_iter();
        improvements.map(|(x, y, _, estimate)| (format!("{x} > {y}"), 0, estimate)).collect()
    }

    /// The number of a label's colour.
    fn number(&self, label: &str) -> usize {
        self.labels.iter().position(|&other| other == label).unwrap_or(0)
    }

    /// Panels of interval estimates, each with its title.
    fn intervals(&self) -> Vec<(String, Vec<IntervalRow>)> {
        if let Some(aggregate) = &self.comparison.aggregate {
            let all: Vec<_> =
                aggregate.groups.iter().map(|(label, scores)| (label, Aggregate::estimates(scores))).collect();
            return (0..4)
                .filter_map(|statistic| {
                    let rows = all.iter().map(|(label, estimates)| {
                        Some((label.to_string(), self.number(label), estimates.get(statistic)?.1))
                    });
                    let name = format!("{}, normalised", all.first()?.1.get(statistic)?.0);
                    Some((name, rows.collect::<Option<Vec<_>>>()?))
                })
                .collect();
        }
        let groups = &self.comparison.groups;
        let panel = |(name, statistic): &(&str, stats::Statistic)| {
            let row =
                |group: &super::Group| (group.label.clone(), self.number(&group.label), group.estimate(*statistic));
            (format!("{name}, {}", groups[0].env), groups.iter().map(row).collect())
        };
        STATISTICS.iter().map(panel).collect()
    }

    fn profile<DB: DrawingBackend>(&self, area: &Area<DB>, canvas: &Canvas) -> Result<()> {
        let Some(aggregate) = &self.comparison.aggregate else { return Ok(()) };
        let all = || aggregate.groups.iter().flat_map(|(_, scores)| scores.iter().flatten().copied());
        let x = padded(all());
        let taus: Vec<f64> = (0..=200).map(|i| x.start + (x.end - x.start) * f64::from(i) / 200.0).collect();
        let mut chart = ChartBuilder::on(area)
            .caption("performance profile", canvas.font(TITLE.1))
            .margin(canvas.px(8))
            .margin_right(canvas.px(22))
            .x_label_area_size(canvas.px(38))
            .y_label_area_size(canvas.px(66))
            .build_cartesian_2d(x, -0.02..1.02)
            .map_err(plain)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.1))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| format!("{y:.1}"))
            .x_desc("normalised score τ")
            .y_desc("runs above τ")
            .axis_desc_style(canvas.font(LABEL))
            .label_style(canvas.font(LABEL))
            .draw()
            .map_err(plain)?;
        for (label, scores) in &aggregate.groups {
            let line = taus.iter().copied().zip(stats::profile(scores, &taus)).collect();
            draw_line(&mut chart, line, self.number(label), canvas)?;
        }
        Ok(())
    }
}

/// A chart with a row for each label: its name, and below it a bar from bound to bound with a mark at the estimate.
fn interval_panel<DB: DrawingBackend>(
    title: &str,
    rows: &[IntervalRow],
    range: Option<Range<f64>>,
    area: &Area<DB>,
    canvas: &Canvas,
) -> Result<()> {
    let ends = rows.iter().flat_map(|(_, _, estimate)| estimate.ends());
    let total: u32 = rows.iter().map(|(label, ..)| row_height(label)).sum();
    let (title, size) = self::title(title);
    let x = range.unwrap_or_else(|| padded(ends));
    let left = x.start + (x.end - x.start) / 80.0;
    let mut chart = ChartBuilder::on(area)
        .caption(title, canvas.font(size))
        .margin(canvas.px(8))
        .margin_right(canvas.px(22))
        .x_label_area_size(canvas.px(24))
        .y_label_area_size(canvas.px(12))
        .build_cartesian_2d(x, 0.0..f64::from(total))
        .map_err(plain)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_labels(6)
        .y_labels(0)
        .x_label_formatter(&|x| short(*x))
        .label_style(canvas.font(LABEL))
        .draw()
        .map_err(plain)?;
    // One unit of the vertical axis is one of the layout.
    let mut top = f64::from(total);
    for (label, i, Estimate { value, interval }) in rows {
        for (k, line) in row_label(label).into_iter().enumerate() {
            let place = (left, top - 1.0 - f64::from(k as u32 * LINE));
            chart.draw_series([Text::new(line, place, canvas.font(LABEL))]).map_err(plain)?;
        }
        top -= f64::from(row_height(label));
        let y = top + f64::from(BAR) / 2.0;
        if let Some((low, high)) = interval {
            let bar = Rectangle::new([(*low, y - 5.0), (*high, y + 5.0)], color(*i).mix(0.35).filled());
            chart.draw_series([bar]).map_err(plain)?;
        }
        let mark = vec![(*value, y - 7.0), (*value, y + 7.0)];
        let mark = PathElement::new(mark, color(*i).stroke_width(canvas.px(3) as u32));
        chart.draw_series([mark]).map_err(plain)?;
    }
    Ok(())
}

/// A label of a chart of intervals, in lines.
fn row_label(label: &str) -> Vec<String> {
    wrapped(label, PANEL.0 - 56, LABEL)
}

fn row_height(label: &str) -> u32 {
    row_label(label).len() as u32 * LINE + BAR
}

type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws the line of label `i`.
fn draw_line<DB: DrawingBackend>(
    chart: &mut Chart<DB>,
    points: Vec<(f64, f64)>,
    i: usize,
    canvas: &Canvas,
) -> Result<()> {
    let stroke = color(i).stroke_width(canvas.px(2) as u32);
    match dash(i) {
        None => chart.draw_series(LineSeries::new(points, stroke)).map_err(plain)?,
        Some(dash) => {
            let line = DashedLineSeries::new(points, canvas.px(dash) as u32, canvas.px(SPACE) as u32, stroke);
            chart.draw_series(line).map_err(plain)?
        }
    };
    Ok(())
}

impl Curve {
    /// The stretches of points that are finite: a line does not go on over a NaN.
    fn pieces(&self) -> impl Iterator<Item = Range<usize>> {
        let fits = |k: usize| {
            let bounds = self.band.get(k).map_or([0.0; 2], |&(low, high)| [low, high]);
            self.center[k].is_finite() && bounds.iter().all(|bound| bound.is_finite())
        };
        let mut start = 0;
        std::iter::from_fn(move || {
            start = (start..self.x.len()).find(|&k| fits(k))?;
            let end = (start..self.x.len()).find(|&k| !fits(k)).unwrap_or(self.x.len());
            Some(std::mem::replace(&mut start, end)..end)
        })
    }
}

type Area<DB> = DrawingArea<DB, Shift>;

/// Size in the back end's units, and how many of them a unit of the layout is.
struct Canvas {
    size: (u32, u32),
    scale: f64,
}

impl Canvas {
    fn px(&self, units: u32) -> i32 {
        (f64::from(units) * self.scale) as i32
    }

    fn font(&self, size: u32) -> TextStyle<'static> {
        (FONT, f64::from(size) * self.scale).into_font().color(&RGBColor(30, 30, 30))
    }
}

/// PNGs need a font in the program; SVGs take the reader's.
fn register_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A font that does not load shows as an error when the first text is drawn.
        let _ = plotters::style::register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
}

fn plain<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

fn color(i: usize) -> RGBColor {
    COLORS[i % COLORS.len()]
}

/// Space between the dashes of a line.
const SPACE: u32 = 4;

/// Length of the dashes where the colours are used up: labels with the same colour differ in it.
fn dash(i: usize) -> Option<u32> {
    match i / COLORS.len() {
        0 => None,
        round => Some((10 / round as u32).max(2)),
    }
}

/// About the width of a line of type; wider than in most fonts, since it is the reader's that is used.
fn text_width(text: &str, size: u32) -> u32 {
    (text.chars().count() as f64 * 0.56 * f64::from(size)).ceil() as u32
}

/// Text in lines of at most `width`, broken at spaces, and inside a word only where it is too long for a line.
fn wrapped(text: &str, width: u32, size: u32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if text_width(line, size) + text_width(word, size) + size / 2 <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
        while let Some(line) =
            lines.last_mut().filter(|line| text_width(line, size) > width && line.chars().count() > 1)
        {
            let fitting = line.char_indices().skip(1).take_while(|(end, _)| text_width(&line[..*end], size) <= width);
            let rest = line
                .split_off(fitting.map(|(end, _)| end).last().unwrap_or(line.chars().next().map_or(0, char::len_utf8)));
            lines.push(rest);
        }
    }
    lines
}

/// A title that fits above a panel: smaller where it is long, and without its middle where that is not enough.
fn title(text: &str) -> (String, u32) {
    let width = PANEL.0 - 16;
    match (TITLE.0..=TITLE.1).rev().find(|&size| text_width(text, size) <= width) {
        Some(size) => (text.into(), size),
        None => {
            let letters: Vec<char> = text.chars().collect();
            let half = (f64::from(width) / (0.56 * f64::from(TITLE.0))) as usize / 2 - 1;
            let (start, end) = (letters[..half].iter(), letters[letters.len() - half..].iter());
            (start.chain(&['…']).chain(end).collect(), TITLE.0)
        }
    }
}

/// Columns and rows for `count` panels.
fn grid(count: usize) -> (usize, usize) {
    let columns = if count <= 4 { count.min(2) } else { 3 };
    (columns, count.div_ceil(columns.max(1)))
}

/// The range of values with a twentieth of it on either side; one around a single value.
fn padded(values: impl Iterator<Item = f64>) -> Range<f64> {
    let values = values.filter(|x| x.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if low > high {
        return 0.0..1.0;
    }
    let pad = if high > low { (high - low) / 20.0 } else { low.abs().max(1.0) / 20.0 };
    low - pad..high + pad
}

/// An axis label without digits that say nothing.
fn short(value: f64) -> String {
    match value.abs() {
        x if x >= 1e4 => format!("{}{}", if value < 0.0 { "-" } else { "" }, steps(x)),
        _ => format!("{}", (value * 1000.0).round() / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Group, Selection};

    #[test]
    fn a_label_that_the_aggregate_leaves_out_keeps_its_colour_from_the_others() {
        let group = |label: &str| Group { label: label.into(), env: "Pendulum-v1".into(), runs: Vec::new() };
        let scores = |label: &str| (label.to_string(), vec![vec![0.0, 1.0]; 2]);
        let comparison = Comparison {
            selection: Selection {
                dirs: Vec::new(),
                metric: "eval/mean_reward".into(),
                last: std::num::NonZeroUsize::MIN,
                x: Axis::EnvSteps,
                threshold: Vec::new(),
                scores: None,
            },
            meaning: String::new(),
            groups: ["a", "b", "c"].map(group).into(),
            aggregate: Some(Aggregate {
                envs: ["Pendulum-v1", "CartPole-v1"].map(String::from).into(),
                normalization: String::new(),
                groups: ["b", "c"].map(scores).into(),
            }),
            notes: Vec::new(),
        };
        let svg = Plots::new(&comparison).svg(&Figure::Profile).expect("a picture");
        // Once in the legend, and where there is a line in the profile once more.
        let drawn = |i: usize| {
            let RGBColor(red, green, blue) = color(i);
            svg.matches(&format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\"")).count()
        };
        assert_eq!([0, 1, 2].map(drawn), [1, 2, 2]);
    }

    #[test]
    fn a_line_stops_at_what_is_not_a_number() {
        let curve = |center: &[f64], band: &[(f64, f64)]| {
            let x = (0..center.len()).map(|x| x as f64).collect();
            let curve = Curve { x, center: center.to_vec(), band: band.to_vec() };
            curve.pieces().collect::<Vec<_>>()
        };
        assert_eq!(curve(&[1.0, f64::NAN, 3.0, 4.0, f64::INFINITY], &[]), [0..1, 2..4]);
        assert_eq!(curve(&[1.0, 2.0, 3.0], &[(0.0, 1.0), (f64::NAN, 2.0), (3.0, 3.0)]), [0..1, 2..3]);
        assert_eq!(curve(&[f64::NAN], &[]), []);
    }

    #[test]
    fn long_text_is_broken_into_lines_that_fit_and_loses_nothing() {
        assert_eq!(wrapped("ppo gamma=0.9", 300, 13), ["ppo gamma=0.9"]);
        assert_eq!(wrapped("ppo gamma=0.9", 70, 13), ["ppo", "gamma=0.9"]);
        let long = "ppo hidden_sizes=[256,256,256,256,256] gamma=0.99";
        let lines = wrapped(long, 120, 13);
        assert!(lines.iter().all(|line| text_width(line, 13) <= 120), "{lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), long.replace(' ', ""));
        assert_eq!(wrapped("äöü", 1, 13), ["ä", "ö", "ü"]);
    }

    #[test]
    fn a_title_fits_above_its_panel() {
        assert_eq!(title("Hopper-v5"), ("Hopper-v5".into(), 16));
        for long in [40, 60, 200] {
            let (text, size) = title(&"x".repeat(long));
            assert!(text_width(&text, size) <= PANEL.0 && size >= TITLE.0, "{text}");
        }
        assert_eq!(title(&format!("{}v12", "x".repeat(200))).0.chars().last(), Some('2'));
    }

    #[test]
    fn no_two_of_thirty_two_labels_look_the_same() {
        let looks = |i: usize| (color(i).0, color(i).1, color(i).2, dash(i));
        let different: std::collections::BTreeSet<_> = (0..32).map(looks).collect();
        assert_eq!(different.len(), 32);
    }
}
