//! A sweep: one rule in many settings, tried together, and a picture of the outcome.
//!
//! Guarantees that each setting is a rule that could be written down: a swept number
//! takes its clearing number along, so that the hysteresis stays as wide, and widens
//! bounds that would leave it out.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::rules::model::Rule;
use crate::rules::table::RuleError;

/// Settings tried at once: all are folded in one reading of the history.
const VARIANTS_MAX: usize = 200;
/// Values of one axis.
const VALUES_MAX: usize = 100;
/// Axes of a sweep.
const AXES_MAX: usize = 8;
/// Of a text that is no axis, so much is said again.
const SHOWN_CHARS_MAX: usize = 100;
/// The longest key of an axis: each of its parts is a table within a table.
const KEY_CHARS_MAX: usize = 64;

/// One thing that is varied.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// `when.value`
    pub key: String,
    /// Its settings.
    pub values: Vec<Value>,
}

/// Why there is no sweep.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SweepError {
    /// The text of an axis.
    #[error(
        "\"{0}\": write KEY=FROM..TO/STEP or KEY=A,B,C, as when.value=110..140/5 or on_delay=0s,15s"
    )]
    Axis(String),
    /// More than is done at once.
    #[error("more than {VARIANTS_MAX} settings are too many: fewer values, or fewer axes")]
    Many,
    /// More than anybody can look at.
    #[error("{0} axes are too many: {AXES_MAX} at most")]
    Axes(usize),
    /// A setting that is no rule.
    #[error("with {setting}: {source}")]
    Rule {
        /// Which.
        setting: String,
        /// What is wrong with it.
        source: RuleError,
    },
}

impl std::str::FromStr for Axis {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Axis, SweepError> {
        let unreadable = || SweepError::Axis(text.chars().take(SHOWN_CHARS_MAX).collect());
        let (key, values) = text.split_once('=').ok_or_else(unreadable)?;
        let range = values.split_once("..").and_then(|(from, rest)| {
            let (to, step) = rest.split_once('/')?;
            Some((from.parse::<f64>().ok()?, to.parse::<f64>().ok()?, step.parse::<f64>().ok()?))
        });
        let values: Vec<Value> = match range {
            Some((from, to, step))
                if step > 0.0 && from <= to && (to - from) / step < VALUES_MAX as f64 =>
            {
                let count = ((to - from) / step + 1e-9).floor() as usize;
                (0..=count).map(|n| crate::event::number(from + step * n as f64)).collect()
            }
            Some(_) => return Err(unreadable()),
            None => values.split(',').filter(|v| !v.is_empty()).map(one).collect(),
        };
        let is_key = (1..=KEY_CHARS_MAX).contains(&key.len());
        if !is_key || values.is_empty() || values.len() > VALUES_MAX {
            return Err(unreadable());
        }
        Ok(Axis { key: key.to_owned(), values })
    }
}

fn one(text: &str) -> Value {
    text.parse::<f64>().map_or_else(|_| Value::String(text.to_owned()), crate::event::number)
}

/// A setting: the value of each axis, and the rule that it makes.
pub type Variant = (Vec<Value>, Arc<Rule>);

/// Every combination, the last axis fastest.
pub fn variants(body: &Value, axes: &[Axis], version: u32) -> Result<Vec<Variant>, SweepError> {
    if axes.len() > AXES_MAX {
        return Err(SweepError::Axes(axes.len()));
    }
    let count = axes.iter().try_fold(1, |n: usize, axis| n.checked_mul(axis.values.len()));
    if count.is_none_or(|count| count > VARIANTS_MAX) {
        return Err(SweepError::Many);
    }
    let mut settings: Vec<Vec<Value>> = vec![Vec::new()];
    for axis in axes {
        let with = |setting: &Vec<Value>| {
            let add = |value: &Value| [&setting[..], std::slice::from_ref(value)].concat();
            axis.values.iter().map(add).collect::<Vec<_>>()
        };
        settings = settings.iter().flat_map(with).collect();
    }
    settings
        .into_iter()
        .map(|setting| {
            let mut changed = body.clone();
            for (axis, value) in axes.iter().zip(&setting) {
                set(&mut changed, axis, value, axes);
            }
            let rule = Rule::read(&changed, version)
                .map_err(|source| SweepError::Rule { setting: said(axes, &setting), source })?;
            Ok((setting, Arc::new(rule)))
        })
        .collect()
}

/// `when.value=110 on_delay=0s`
fn said(axes: &[Axis], setting: &[Value]) -> String {
    let one = |(axis, value): (&Axis, &Value)| format!("{}={}", axis.key, plain(value));
    axes.iter().zip(setting).map(one).collect::<Vec<_>>().join(" ")
}

/// Without quotes.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn set(body: &mut Value, axis: &Axis, value: &Value, axes: &[Axis]) {
    let pointer = format!("/{}", axis.key.replace('.', "/"));
    let old = body.pointer(&pointer).and_then(Value::as_f64);
    if let (Some(old), Some(new), "when.value") = (old, value.as_f64(), &*axis.key) {
        let own = axes.iter().any(|other| other.key == "clear.value");
        if let Some(clear) = body.pointer_mut("/clear/value")
            && let Some(number) = clear.as_f64()
            && !own
        {
            *clear = crate::event::number(number + new - old);
        }
        for (end, wider) in [("min", f64::min as fn(f64, f64) -> f64), ("max", f64::max)] {
            if let Some(bound) = body.pointer_mut(&format!("/bounds/{end}"))
                && let Some(number) = bound.as_f64()
            {
                *bound = crate::event::number(wider(number, new));
            }
        }
    }
    let mut place = body;
    for key in axis.key.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[key];
    }
    *place = value.clone();
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 48.0;
/// Told apart also without colour, by their names at the lines' ends.
const COLOURS: [&str; 6] = ["#1b6ca8", "#c2571a", "#2e7d4f", "#8a3a8f", "#7a6a00", "#444444"];

/// The other axes' settings; and the place on the first axis, with the rate there.
type Line<'a> = (&'a [Value], Vec<(usize, f64)>);

/// A line for each setting of the other axes.
fn lines<'a>(first: &Axis, points: &'a [(Vec<Value>, f64)]) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (setting, rate) in points {
        let Some((value, others)) = setting.split_first() else { continue };
        let at = first.values.iter().position(|v| v == value).unwrap_or_default();
        match lines.iter_mut().find(|(of, _)| *of == others) {
            Some((_, line)) => line.push((at, *rate)),
            None => lines.push((others, vec![(at, *rate)])),
        }
    }
    lines
}

/// Alerts a patient-day against the first axis, a line for each setting of the others.
pub fn picture(title: &str, axes: &[Axis], points: &[(Vec<Value>, f64)]) -> String {
    let Some(first) = axes.first() else { return String::new() };
    let top = points.iter().map(|(_, rate)| *rate).fold(0.0, f64::max).max(1e-9);
    let x = |n: usize| {
        LEFT + (WIDTH - LEFT - RIGHT) * n as f64 / (first.values.len().max(2) - 1) as f64
    };
    let y = |rate: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / top;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    let mut add = |line: String| {
        svg.push_str(&line);
        svg.push('\n');
    };
    for tenth in 0..=4 {
        let rate = top * f64::from(tenth) / 4.0;
        add(format!(
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{3:.1}\" y=\"{4:.1}\" text-anchor=\"end\">{1:.3}</text>",
            WIDTH - RIGHT,
            rate,
            y(rate),
            LEFT - 6.0,
            y(rate) + 4.0
        ));
    }
    for (n, value) in first.values.iter().enumerate() {
        add(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(n),
            HEIGHT - BOTTOM + 18.0,
            escaped(&plain(value))
        ));
    }
    add(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0,
        escaped(&first.key)
    ));
    for (n, (others, line)) in lines(first, points).iter().enumerate() {
        let line: Vec<_> = line.iter().map(|(at, rate)| (x(*at), y(*rate))).collect();
        let colour = COLOURS[n % COLOURS.len()];
        let way: Vec<String> = line.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        add(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            way.join(" ")
        ));
        let name = said(axes.get(1..).unwrap_or_default(), others);
        add(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            WIDTH - RIGHT + 8.0,
            TOP + 16.0 * n as f64 + 12.0,
            escaped(&name)
        ));
        for (x, y) in line {
            add(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Value {
        toml::from_str(include_str!("../shipped/hr-high.toml")).unwrap()
    }

    #[test]
    fn an_axis_is_a_range_or_a_list() {
        let axis: Axis = "when.value=110..140/5".parse().unwrap();
        assert_eq!((axis.values.len(), &axis.values[6]), (7, &Value::from(140)));
        let axis: Axis = "on_delay=0s,15s,60s".parse().unwrap();
        assert_eq!(axis.values, ["0s", "15s", "60s"]);
        for bad in ["", "x", "x=", "x=1..0/1", "x=0..1/0", "x=0..1000/1"] {
            assert!(bad.parse::<Axis>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sweep_of_more_than_can_be_counted_is_refused_at_once() {
        let two: Axis = "when.value=110,120".parse().unwrap();
        // 2^64 is 0 to whoever does not look.
        let many = |n| variants(&body(), &vec![two.clone(); n], 1).map(|all| all.len());
        assert_eq!(many(64), Err(SweepError::Axes(64)));
        assert_eq!(many(8), Err(SweepError::Many));
        assert_eq!(many(7), Ok(128));
        let one: Axis = "when.value=110".parse().unwrap();
        assert_eq!(variants(&body(), &vec![one; 9], 1), Err(SweepError::Axes(9)));
        // A table in a table for each dot: they must not be as deep as a stack.
        let deep = format!("{}a=1", "a.".repeat(20_000));
        let refused = deep.parse::<Axis>().unwrap_err().to_string();
        assert!(refused.len() < 300, "{refused}");
    }

    #[test]
    fn a_swept_number_takes_its_clearing_number_along_and_widens_its_bounds() {
        let axes = ["when.value=95..100/5".parse().unwrap(), "on_delay=20s,60s".parse().unwrap()];
        let all = variants(&body(), &axes, 1).unwrap();
        let numbers: Vec<_> = all
            .iter()
            .map(|(_, rule)| {
                (
                    rule.threshold().unwrap().2,
                    rule.threshold().unwrap().3,
                    rule.on_delay.num_seconds(),
                )
            })
            .collect();
        assert_eq!(
            numbers,
            [(95.0, 75.0, 20), (95.0, 75.0, 60), (100.0, 80.0, 20), (100.0, 80.0, 60)]
        );
        let wrong = variants(&body(), &["on_delay=5s".parse().unwrap()], 1).unwrap_err();
        assert!(
            wrong.to_string().starts_with("with on_delay=5s: /on_delay: 5s is shorter"),
            "{wrong}"
        );
    }

    #[test]
    fn the_picture_has_a_line_for_each_setting_of_the_other_axes() {
        let axes = ["when.value=110..140/5".parse().unwrap(), "on_delay=20s,60s".parse().unwrap()];
        let all = variants(&body(), &axes, 1).unwrap();
        let points: Vec<_> = all.into_iter().map(|(setting, _)| (setting, 0.5)).collect();
        let svg = picture("a < b", &axes, &points);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.contains("on_delay=60s"));
    }
}
