//! One measured value, and how it is shown.

use anyhow::{Context, Result};
use serde::Serialize;
use std::time::Duration;

/// What was measured, beside what was aimed at.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// What it is, with the group first: `calls: echo, exec to exit`.
    pub(crate) name: String,
    /// The value, or the median of several.
    pub(crate) value: f64,
    /// `ms`, `KB`, …
    pub(crate) unit: &'static str,
    /// Smallest of several values.
    pub(crate) min: Option<f64>,
    /// 19 of 20 values are not larger.
    pub(crate) p95: Option<f64>,
    /// The most it should be.
    pub(crate) goal: Option<f64>,
    /// Whether the goal is the least it should be instead.
    pub(crate) at_least: bool,
}

impl Figure {
    /// One exact value.
    pub(crate) fn exact(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, min: None, p95: None, goal: None, at_least: false }
    }

    /// The median of `times`, with the smallest and the 95th percentile, in milliseconds.
    pub(crate) fn times(name: impl Into<String>, times: &[Duration]) -> Result<Self> {
        let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        ms.sort_by(f64::total_cmp);
        let at = |rank: usize| ms.get(rank.min(ms.len().saturating_sub(1))).copied();
        let value = at(ms.len() / 2).context("nothing was timed")?;
        let (min, p95) = (at(0), at((ms.len() * 95).div_ceil(100).saturating_sub(1)));
        Ok(Self { min, p95, ..Self::exact(name, value, "ms") })
    }

    /// The same with a goal beside it.
    pub(crate) fn goal(self, goal: f64) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// The same with a goal that it should reach.
    pub(crate) fn at_least(self, goal: f64) -> Self {
        Self { goal: Some(goal), at_least: true, ..self }
    }

    fn meets(&self, goal: f64) -> bool {
        if self.at_least { goal <= self.value } else { self.value <= goal }
    }
}

/// One line of JSON for each.
pub(crate) fn json(figures: &[Figure]) -> Result<String> {
    let lines: Result<Vec<_>, _> = figures.iter().map(serde_json::to_string).collect();
    Ok(lines?.join("\n"))
}

/// A table for people.
pub(crate) fn table(figures: &[Figure]) -> String {
    let show = |value: Option<f64>| value.map_or_else(String::new, number);
    let mut rows = vec![["", "median", "min", "p95", "", "goal"].map(String::from)];
    for figure in figures {
        let verdict = figure.goal.map_or_else(String::new, |goal| {
            let word = if figure.meets(goal) { "met" } else { "MISSED" };
            format!("{} {word}", number(goal))
        });
        let value = number(figure.value);
        let (min, p95) = (show(figure.min), show(figure.p95));
        rows.push([figure.name.clone(), value, min, p95, figure.unit.into(), verdict]);
    }
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            // Names and units to the left, numbers to the right.
            if matches!(column, 1..=3) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Whole numbers as they are, others with two digits.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
