//! Prints NEWS2 of every combination of the chart's boundaries, for programs that nobody
//! here wrote to compare with: `cargo run --example news2`.
//!
//! A line is `scale,respiratory_rate,spo2,oxygen,systolic_bp,heart_rate,consciousness,
//! body_temperature,score,band`.

use std::io::{BufWriter, Write};

use vitals::rules::news2::{Input, Scale, score};
use vitals::vital::Vital;

const RESPIRATORY_RATE: [f64; 8] = [8.0, 9.0, 11.0, 12.0, 20.0, 21.0, 24.0, 25.0];
const SPO2: [f64; 15] =
    [83.0, 84.0, 85.0, 86.0, 87.0, 88.0, 91.0, 92.0, 93.0, 94.0, 95.0, 96.0, 97.0, 99.0, 100.0];
const OXYGEN: [f64; 2] = [0.0, 2.0];
const SYSTOLIC_BP: [f64; 8] = [90.0, 91.0, 100.0, 101.0, 110.0, 111.0, 219.0, 220.0];
const HEART_RATE: [f64; 10] = [40.0, 41.0, 50.0, 51.0, 90.0, 91.0, 110.0, 111.0, 130.0, 131.0];
const CONSCIOUSNESS: [f64; 5] = [0.0, 1.0, 2.0, 3.0, 4.0];
const BODY_TEMPERATURE: [f64; 8] = [35.0, 35.1, 36.0, 36.1, 38.0, 38.1, 39.0, 39.1];

/// In the order of a line.
const AXES: [(Vital, &[f64]); 7] = [
    (Vital::RespiratoryRate, &RESPIRATORY_RATE),
    (Vital::Spo2, &SPO2),
    (Vital::OxygenFlow, &OXYGEN),
    (Vital::SystolicBp, &SYSTOLIC_BP),
    (Vital::HeartRate, &HEART_RATE),
    (Vital::Consciousness, &CONSCIOUSNESS),
    (Vital::BodyTemperature, &BODY_TEMPERATURE),
];

fn main() -> std::io::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let count: usize = AXES.iter().map(|(_, values)| values.len()).product();
    for (name, scale) in [(1, Scale::One), (2, Scale::Two)] {
        for n in 0..count {
            // The number of a combination, taken apart.
            let mut rest = n;
            let values = AXES.map(|(vital, values)| {
                let value = values[rest % values.len()];
                rest /= values.len();
                (vital, value)
            });
            let known = |vital| {
                let (_, value) = values.iter().find(|(of, _)| *of == vital)?;
                Some(Input { value: *value, age_seconds: 0.0, suspect: false })
            };
            let found = score(known, scale);
            assert!(!found.partial, "everything is known");
            write!(out, "{name}")?;
            for (_, value) in values {
                write!(out, ",{value}")?;
            }
            writeln!(out, ",{},{:?}", found.score, found.band)?;
        }
    }
    out.flush()
}
