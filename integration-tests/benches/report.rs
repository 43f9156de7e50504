//! A result: as JSON it is kept, as a table and a chart it is read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::runner::Figures;

/// One run of one group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BenchResult {
    pub(crate) group: String,
    /// Day of the run, by the machine's clock: `2026-11-22`.
    pub(crate) date: String,
    pub(crate) machine: Machine,
    /// Side → what its `--version` says.
    pub(crate) versions: BTreeMap<String, String>,
    /// What the sides did, in a sentence.
    pub(crate) setting: String,
    pub(crate) comparisons: Vec<Comparison>,
    /// Figures that are no times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) measures: Vec<Measure>,
}

/// One number of each side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measure {
    pub(crate) task: String,
    pub(crate) unit: String,
    pub(crate) values: Vec<Value>,
}

/// See [`Measure`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Value {
    pub(crate) side: String,
    pub(crate) value: f64,
}

/// The day of a run, by the machine's clock.
///
/// # Errors
/// If there is no `date`.
pub(crate) fn today() -> anyhow::Result<String> {
    let out = Command::new("date").arg("+%F").output().context("cannot ask for the date")?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

/// The same task, done by each side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Comparison {
    pub(crate) task: String,
    /// Ours first.
    pub(crate) figures: Vec<Figures>,
}

/// Writes `result` as JSON.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write(result: &BenchResult, path: &Path) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let text = serde_json::to_string_pretty(result)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Renders `result` for a terminal.
pub(crate) fn table(result: &BenchResult) -> String {
    let mut text = format!(
        "{} on {} ({} CPUs, Linux {}), {}\n",
        result.setting,
        result.machine.processor,
        result.machine.cpus,
        result.machine.kernel,
        result.date,
    );
    for comparison in &result.comparisons {
        text.push('\n');
        text.push_str(&comparison_table(comparison));
    }
    for measure in &result.measures {
        let _ = writeln!(text, "\n{}, {}", measure.task, measure.unit);
        for Value { side, value } in &measure.values {
            let _ = writeln!(text, "  {side:<22}{value:>10.2}");
        }
    }
    text
}

/// Renders one comparison for a terminal.
pub(crate) fn comparison_table(comparison: &Comparison) -> String {
    let mut text = format!(
        "{:<24}{:>10}{:>16}{:>10}{:>10}{:>12}{:>8}\n",
        comparison.task, "wall ms", "(p25 – p75)", "ratio", "CPU ms", "peak KiB", "runs",
    );
    for figures in &comparison.figures {
        let _ = writeln!(
            text,
            "  {:<22}{:>10.2}{:>16}{:>10.2}{:>10.2}{:>12.0}{:>8}",
            figures.side,
            figures.wall_ms.median,
            format!("({:.1} – {:.1})", figures.wall_ms.p25, figures.wall_ms.p75),
            ratio(comparison, figures),
            figures.cpu_ms.median,
            figures.peak_kib.median,
            figures.runs,
        );
    }
    text
}

/// Draws what the results in `dir` say: a chart beside each, and the tables of the README between
/// its `bench:GROUP` marks.
///
/// # Errors
/// If a result cannot be read, or the README has no marks for it.
pub(crate) fn draw_all(dir: &Path) -> anyhow::Result<()> {
    let readme_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let mut readme = fs::read_to_string(&readme_path).context("cannot read README.md")?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let result: BenchResult =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        fs::write(path.with_extension("svg"), chart(&result))?;
        readme = with_section(&readme, &result.group, &markdown(&result))
            .with_context(|| format!("README.md has no marks for bench:{}", result.group))?;
        println!("drawn: {} and its table in README.md", path.with_extension("svg").display());
    }
    fs::write(&readme_path, readme).context("cannot write README.md")
}

/// How many times ours the side took: above 1 it is slower than ours.
fn ratio(comparison: &Comparison, figures: &Figures) -> f64 {
    let ours = comparison.figures.first().map_or(f64::NAN, |ours| ours.wall_ms.median);
    figures.wall_ms.median / ours
}

/// A figure, or a dash where a comparison takes the time only.
fn measured(figure: f64) -> String {
    if figure > 0.0 { format!("{figure:.1}") } else { "–".to_owned() }
}

fn markdown(result: &BenchResult) -> String {
    let mut text = format!(
        "{}, on {} CPUs, Linux {}, {}. Medians of {} runs each, taken in turn; × is the multiple of \
         ours.\n\n",
        result.setting,
        result.machine.cpus,
        result.machine.kernel,
        result.date,
        result
            .comparisons
            .iter()
            .flat_map(|one| &one.figures)
            .map(|one| one.runs)
            .min()
            .unwrap_or(0),
    );
    text.push_str("| | wall ms | × | CPU ms | peak MiB |\n| --- | ---: | ---: | ---: | ---: |\n");
    for comparison in &result.comparisons {
        let _ = writeln!(text, "| **{}** | | | | |", comparison.task);
        for figures in &comparison.figures {
            let version = result.versions.get(&figures.side).map_or("", String::as_str);
            let _ = writeln!(
                text,
                "| {} {version} | {:.1} | {:.2} | {} | {} |",
                figures.side,
                figures.wall_ms.median,
                ratio(comparison, figures),
                measured(figures.cpu_ms.median),
                measured(figures.peak_kib.median / 1024.0),
            );
        }
    }
    if !result.measures.is_empty() {
        text.push_str("\n| | | |\n| --- | ---: | --- |\n");
    }
    for Measure { task, unit, values } in &result.measures {
        let _ = writeln!(text, "| **{task}** | | |");
        for Value { side, value } in values {
            let _ = writeln!(text, "| {side} | {value:.1} | {unit} |");
        }
    }
    text
}

/// Replaces what stands between `<!-- bench:GROUP -->` and `<!-- /bench:GROUP -->`.
fn with_section(readme: &str, group: &str, section: &str) -> Option<String> {
    let open = format!("<!-- bench:{group} -->\n");
    let close = format!("<!-- /bench:{group} -->");
    let begin = readme.find(&open)? + open.len();
    let end = begin + readme.get(begin..)?.find(&close)?;
    Some(format!("{}{section}{}", readme.get(..begin)?, readme.get(end..)?))
}

const BAR_HEIGHT: usize = 18;
const LABEL_WIDTH: usize = 150;
const CHART_WIDTH: usize = 640;

/// Draws medians as bars and the middle half of the runs as a line through each bar's end.
fn chart(result: &BenchResult) -> String {
    let rows: usize = result.comparisons.iter().map(|one| one.figures.len() + 2).sum();
    let height = rows * (BAR_HEIGHT + 4) + 10;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n",
        LABEL_WIDTH + CHART_WIDTH + 90,
    );
    let mut row = 0;
    for comparison in &result.comparisons {
        row += 1;
        let _ = writeln!(
            svg,
            "<text x=\"4\" y=\"{}\" font-weight=\"bold\">{} (wall ms, median)</text>",
            row * (BAR_HEIGHT + 4) - 6,
            comparison.task,
        );
        let widest = comparison.figures.iter().map(|one| one.wall_ms.p75).fold(1e-9, f64::max);
        let scale = CHART_WIDTH as f64 / widest;
        for (index, figures) in comparison.figures.iter().enumerate() {
            let top = row * (BAR_HEIGHT + 4);
            let wall = figures.wall_ms;
            let x = |value: f64| LABEL_WIDTH as f64 + value * scale;
            let colour = if index == 0 { "#2a7f62" } else { "#9aa5b1" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LABEL_WIDTH}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" \
                 fill=\"{colour}\"/><line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" \
                 stroke=\"#333\"/><text x=\"{:.1}\" y=\"{}\">{:.1}</text>",
                LABEL_WIDTH - 6,
                top + BAR_HEIGHT - 5,
                figures.side,
                wall.median * scale,
                x(wall.p25),
                x(wall.p75),
                x(wall.median.max(wall.p75)) + 6.0,
                top + BAR_HEIGHT - 5,
                wall.median,
                middle = top + BAR_HEIGHT / 2,
            );
            row += 1;
        }
        row += 1;
    }
    svg.push_str("</svg>\n");
    svg
}
