//! Pictures of a comparison: curves with bands, interval estimates, performance profiles, probabilities of improvement.
//!
//! Every figure is drawn by one function for any back end, so that SVG and PNG are the same picture. Lines are
//! interquartile means over runs, bands and bars 95 % bootstrap intervals.

use std::ops::Range;
use std::path::Path;
use std::sync::Once;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::table::steps;
use super::{Aggregate, Axis, Comparison, Curve, Estimate};
use crate::checkpoint::write_whole;
use crate::stats::{self, STATISTICS};

/// A label, its colour's number and its estimate.
type IntervalRow = (String, usize, Estimate);

/// Okabe and Ito's colours, which remain apart for colour-blind eyes; the yellow, faint on white, comes last.
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(240, 228, 66),
];

/// Size of one panel in units of SVG; PNGs have `PIXELS` of them for each.
const PANEL: (u32, u32) = (460, 300);
const PIXELS: f64 = 2.0;

/// Room for one row of a chart of intervals, and for such a chart's axis and title.
const ROW: u32 = 34;
const FRAME: u32 = 70;

/// Room for one line of a legend.
const LEGEND: u32 = 24;

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

    /// What it shows, in a sentence.
    pub fn caption(&self) -> String {
        match self {
            Figure::Curve(env) => format!("{env}: interquartile mean over runs and its 95 % interval."),
            Figure::Curves => "Interquartile mean over runs and its 95 % interval.".into(),
            Figure::Intervals => "Estimates with 95 % intervals.".into(),
            Figure::Profile => "Part of the runs that score above τ.".into(),
            Figure::Improvement => "Probability that a run of X scores higher than one of Y.".into(),
        }
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
        if envs.len() == 1 || self.comparison.aggregate.is_some() {
            figures.push(Figure::Intervals);
        }
        if self.comparison.aggregate.is_some() {
            figures.push(Figure::Profile);
        }
        if !self.comparison.improvements().is_empty() {
            figures.push(Figure::Improvement);
        }
        figures
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
        let rows = |rows: usize| rows as u32 * ROW + FRAME;
        let legend = self.legend_height(PANEL.0);
        match figure {
            Figure::Curve(_) | Figure::Profile => (PANEL.0, PANEL.1 + legend),
            Figure::Curves => {
                let (columns, rows) = grid(self.comparison.envs().len());
                let width = PANEL.0 * columns as u32;
                (width, PANEL.1 * rows as u32 + self.legend_height(width))
            }
            Figure::Intervals => (PANEL.0, rows(self.labels.len()) * self.intervals().len() as u32),
            Figure::Improvement => (PANEL.0, rows(self.comparison.improvements().len())),
        }
    }

    /// One label has no legend: titles say it.
    fn legend_height(&self, width: u32) -> u32 {
        if self.labels.len() < 2 { 0 } else { self.legend_lines(width).len() as u32 * LEGEND }
    }

    /// Labels by line, as many on each as fit.
    fn legend_lines(&self, width: u32) -> Vec<Vec<usize>> {
        let (mut lines, mut used) = (vec![Vec::new()], 10);
        for (i, label) in self.labels.iter().enumerate() {
            let needed = label_width(label);
            if used + needed > width && used > 10 {
                lines.push(Vec::new());
                used = 10;
            }
            used += needed;
            if let Some(line) = lines.last_mut() {
                line.push(i);
            }
        }
        lines
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
                let rows: Vec<(String, usize, Estimate)> = (self.comparison.improvements().into_iter())
                    .map(|(x, y, _, estimate)| (format!("{x} > {y}"), 0, estimate))
                    .collect();
                interval_panel("probability of improvement", &rows, Some(0.0..1.0), root, canvas)?;
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
        for (line, labels) in self.legend_lines(width).into_iter().enumerate() {
            let (mut x, y) = (10, line as u32 * LEGEND + LEGEND / 2);
            for i in labels {
                let place =
                    |dx: u32, dy: i32| (canvas.px(x + dx), canvas.px(y) + (f64::from(dy) * canvas.scale) as i32);
                let stroke = color(i).stroke_width(canvas.px(3) as u32);
                top.draw(&PathElement::new(vec![place(0, 0), place(18, 0)], stroke)).map_err(plain)?;
                top.draw(&Text::new(self.labels[i].to_string(), place(24, -4), canvas.font(13))).map_err(plain)?;
                x += label_width(self.labels[i]);
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
        let x = 0.0..curves.iter().filter_map(|(_, curve)| curve.x.last()).fold(f64::MIN_POSITIVE, |a, &b| a.max(b));
        let agent = if self.labels.len() == 1 { format!(", {}", self.labels[0]) } else { String::new() };
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{env}{agent}"), canvas.font(16))
            .margin(canvas.px(8))
            .margin_right(canvas.px(22))
            .x_label_area_size(canvas.px(38))
            .y_label_area_size(canvas.px(58))
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
            .x_desc(if by_time { "minutes" } else { "environment steps" })
            .axis_desc_style(canvas.font(13))
            .label_style(canvas.font(13))
            .draw()
            .map_err(plain)?;
        for (i, curve) in &curves {
            let low = curve.x.iter().zip(&curve.band).map(|(&x, &(low, _))| (x, low));
            let high = curve.x.iter().zip(&curve.band).map(|(&x, &(_, high))| (x, high)).rev();
            let outline: Vec<(f64, f64)> = low.chain(high).collect();
            if !outline.is_empty() {
                chart.draw_series([Polygon::new(outline, color(*i).mix(0.18).filled())]).map_err(plain)?;
            }
        }
        // After all bands, so that none lies over a line.
        for (i, curve) in &curves {
            let line = curve.x.iter().copied().zip(curve.center.iter().copied());
            chart.draw_series(LineSeries::new(line, color(*i).stroke_width(canvas.px(2) as u32))).map_err(plain)?;
            if let ([x], [y]) = (&curve.x[..], &curve.center[..]) {
                chart.draw_series([Circle::new((*x, *y), canvas.px(3), color(*i).filled())]).map_err(plain)?;
            }
        }
        Ok(())
    }

    /// Panels of interval estimates, each with its title.
    fn intervals(&self) -> Vec<(String, Vec<IntervalRow>)> {
        let number = |label: &str| self.labels.iter().position(|&other| other == label).unwrap_or(0);
        if let Some(aggregate) = &self.comparison.aggregate {
            let all: Vec<_> =
                aggregate.groups.iter().map(|(label, scores)| (label, Aggregate::estimates(scores))).collect();
            return (0..4)
                .filter_map(|statistic| {
                    let rows = all.iter().map(|(label, estimates)| {
                        Some((label.to_string(), number(label), estimates.get(statistic)?.1))
                    });
                    let name = format!("{}, normalised", all.first()?.1.get(statistic)?.0);
                    Some((name, rows.collect::<Option<Vec<_>>>()?))
                })
                .collect();
        }
        let groups = &self.comparison.groups;
        let panel = |(name, statistic): &(&str, stats::Statistic)| {
            let row = |group: &super::Group| (group.label.clone(), number(&group.label), group.estimate(*statistic));
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
            .caption("performance profile", canvas.font(16))
            .margin(canvas.px(8))
            .margin_right(canvas.px(22))
            .x_label_area_size(canvas.px(38))
            .y_label_area_size(canvas.px(58))
            .build_cartesian_2d(x, 0.0..1.0)
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
            .axis_desc_style(canvas.font(13))
            .label_style(canvas.font(13))
            .draw()
            .map_err(plain)?;
        for (i, (_, scores)) in aggregate.groups.iter().enumerate() {
            let line = taus.iter().copied().zip(stats::profile(scores, &taus));
            chart.draw_series(LineSeries::new(line, color(i).stroke_width(canvas.px(2) as u32))).map_err(plain)?;
        }
        Ok(())
    }
}

/// A chart with a row for each label: its name, and below it a bar from bound to bound with a mark at the estimate.
fn interval_panel<DB: DrawingBackend>(
    title: &str,
    rows: &[(String, usize, Estimate)],
    range: Option<Range<f64>>,
    area: &Area<DB>,
    canvas: &Canvas,
) -> Result<()> {
    let ends = rows.iter().flat_map(|(_, _, estimate)| [estimate.interval.0, estimate.interval.1, estimate.value]);
    let x = range.unwrap_or_else(|| padded(ends));
    let left = x.start + (x.end - x.start) / 80.0;
    let mut chart = ChartBuilder::on(area)
        .caption(title, canvas.font(16))
        .margin(canvas.px(8))
        .margin_right(canvas.px(22))
        .x_label_area_size(canvas.px(24))
        .y_label_area_size(canvas.px(12))
        .build_cartesian_2d(x, 0.0..rows.len() as f64)
        .map_err(plain)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.1))
        .x_labels(6)
        .y_labels(0)
        .x_label_formatter(&|x| short(*x))
        .label_style(canvas.font(13))
        .draw()
        .map_err(plain)?;
    for (row, (label, i, Estimate { value, interval: (low, high) })) in rows.iter().enumerate() {
        let top = (rows.len() - row) as f64;
        let y = top - 0.72;
        chart.draw_series([Text::new(label.clone(), (left, top - 0.04), canvas.font(12))]).map_err(plain)?;
        let bar = Rectangle::new([(*low, y - 0.16), (*high, y + 0.16)], color(*i).mix(0.35).filled());
        chart.draw_series([bar]).map_err(plain)?;
        let mark =
            PathElement::new(vec![(*value, y - 0.2), (*value, y + 0.2)], color(*i).stroke_width(canvas.px(3) as u32));
        chart.draw_series([mark]).map_err(plain)?;
    }
    Ok(())
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

/// Width of a legend entry: 13 units of type are about 6.6 wide on average.
fn label_width(label: &str) -> u32 {
    (label.chars().count() as f64 * 6.6) as u32 + 44
}

/// Columns and rows for `count` panels.
fn grid(count: usize) -> (usize, usize) {
    let columns = if count <= 4 { count.min(2) } else { 3 };
    (columns, count.div_ceil(columns.max(1)))
}

/// The range of values with a twentieth of it on either side; one around a single value.
fn padded(values: impl Iterator<Item = f64>) -> Range<f64> {
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
