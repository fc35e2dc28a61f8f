//! A rule, in types that cannot be wrong.
//!
//! Guarantees that a [`Rule`] can be evaluated as it is: its parts were read by
//! [`super::written`], which refuses what does not fit, and no other code makes one.
//! Does not judge anything: that is [`mod@super::step`].

use std::fmt;

use chrono::{DateTime, FixedOffset, TimeDelta, Timelike, Utc};

use crate::event::Priority;
use crate::vital::Vital;

/// A rule and its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Chosen by its author.
    pub id: String,
    /// Counts from 1 with every change.
    pub version: u32,
    /// The name of the event that it raises: `HIGH_HEART_RATE`.
    pub event: String,
    /// Of the alert.
    pub priority: Priority,
    /// Whether it pages.
    pub mode: Mode,
    /// Whose readings are judged together.
    pub per: Per,
    /// What must hold.
    pub when: When,
    /// How long it must hold, on the readings' own time, before the alert is raised.
    pub on_delay: TimeDelta,
    /// How many readings must have said so.
    pub samples_min: u32,
    /// A longer silence between two readings begins the delays anew.
    pub max_gap: Option<TimeDelta>,
    /// How long it must not hold before the alert is cleared.
    pub off_delay: TimeDelta,
    /// Said again after this while the alert stands and nobody acknowledged it.
    pub re_alarm: Option<TimeDelta>,
    /// Only a person clears it.
    pub latch: bool,
    /// Readings recorded later than this after they were measured page nobody.
    pub lateness: TimeDelta,
    /// Whom it is for.
    pub scope: Scope,
    /// When it may raise; empty means always.
    pub schedule: Vec<Hours>,
    /// What follows when nobody answers, in the order of time.
    pub escalate: Vec<Escalation>,
    /// Rules whose standing alert keeps this one from raising.
    pub inhibited_by: Vec<String>,
    /// Readings that the device itself trusts less are not used.
    pub quality_min: Option<f32>,
    /// How far a patient's own limit may move the number.
    pub bounds: Option<Bounds>,
    /// More pages than this a patient-day refuse its activation.
    pub pages_max: Option<f64>,
}

/// The life of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Mode {
    Draft,
    Shadow,
    Active,
    Retired,
}

impl Mode {
    /// All, in the order of a rule's life.
    pub const ALL: [Mode; 4] = [Mode::Draft, Mode::Shadow, Mode::Active, Mode::Retired];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Draft => "draft",
            Mode::Shadow => "shadow",
            Mode::Active => "active",
            Mode::Retired => "retired",
        }
    }
}

/// Whose readings are judged together. An alert is one of the patient's either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// All of the patient's: any device raises, and any clears.
    Patient,
    /// Those of one device: delays and memory are its own, and what it raised, another
    /// device does not clear as long as it is heard of.
    Device,
}

impl Per {
    /// Unless a rule says otherwise. What is of high priority is not cleared by a device
    /// that did not raise it; where several vitals are joined, no device raises alone.
    pub fn usual(priority: Priority, when: &When) -> Per {
        let first = when.leaves.first().and_then(Leaf::vital);
        let is_of_one = first.is_some() && when.leaves.iter().all(|leaf| leaf.vital() == first);
        let is_of_devices = when.leaves.iter().any(Leaf::is_of_device);
        match priority == Priority::High && is_of_one && !is_of_devices {
            true => Per::Device,
            false => Per::Patient,
        }
    }
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Strictly above.
    Above,
    /// At or above.
    AtLeast,
    /// Strictly below.
    Below,
    /// At or below.
    AtMost,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 4] = [Op::Above, Op::AtLeast, Op::Below, Op::AtMost];

    /// Whether `value` breaks `limit`.
    pub fn breaks(self, value: f64, limit: f64) -> bool {
        match self {
            Op::Above => value > limit,
            Op::AtLeast => value >= limit,
            Op::Below => value < limit,
            Op::AtMost => value <= limit,
        }
    }

    /// Whether larger values are the worse ones.
    pub fn is_upward(self) -> bool {
        matches!(self, Op::Above | Op::AtLeast)
    }

    /// As it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Op::Above => ">",
            Op::AtLeast => ">=",
            Op::Below => "<",
            Op::AtMost => "<=",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sign())
    }
}

/// A condition: a tree over leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct When {
    /// How the leaves are joined.
    pub tree: Node,
    /// What is looked at, in the order in which it was written.
    pub leaves: Vec<Leaf>,
}

/// A place in the tree.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// The leaf of this number.
    Leaf(usize),
    /// Every one of them.
    All(Vec<Node>),
    /// At least one of them.
    Any(Vec<Node>),
    /// The contrary.
    Not(Box<Node>),
}

/// One thing that can be looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// A value against a number.
    Threshold {
        /// Of what.
        vital: Vital,
        /// How.
        op: Op,
        /// Against this, in the canonical unit.
        value: f64,
        /// Once the alert stands, against this: hysteresis.
        clear: f64,
    },
    /// A change over a time: the newest value less the extreme one in the time before.
    Delta {
        /// Of what.
        vital: Vital,
        /// How; upward compares a rise, downward a fall.
        op: Op,
        /// Against this change; negative for a fall.
        value: f64,
        /// Over this time.
        within: TimeDelta,
    },
    /// So many readings that break a number.
    Count {
        /// Of what.
        vital: Vital,
        /// How.
        op: Op,
        /// Against this.
        value: f64,
        /// How many.
        n: u32,
        /// Out of what.
        of: Of,
    },
    /// No reading for a time: of a vital, or of a device that had sent before.
    Missing {
        /// Of what; any of the device's when left out.
        vital: Option<Vital>,
        /// For how long.
        after: TimeDelta,
    },
    /// NEWS2.
    Score {
        /// At least so many points.
        at_least: Option<u32>,
        /// Or three points in a single parameter.
        any_three: bool,
    },
    /// A reading that no living patient shows.
    Suspect {
        /// Of what; anything when left out.
        vital: Option<Vital>,
    },
}

/// Out of what a count counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The last so many readings.
    Last(u32),
    /// The readings of this time.
    Within(TimeDelta),
}

/// Whom a rule is for. Who is not known to fit does not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Wards; all when empty.
    pub wards: Vec<String>,
    /// Years of age, at least.
    pub age_min: Option<u32>,
    /// Years of age, at most.
    pub age_max: Option<u32>,
}

/// Hours of a day, in a fixed offset from UTC.
#[derive(Clone, Debug, PartialEq)]
pub struct Hours {
    /// Days, Monday first; the day on which the hours begin.
    pub days: [bool; 7],
    /// Minutes after midnight, from here on.
    pub from_minute: u32,
    /// Until here, not included; before `from` means the day after.
    pub to_minute: u32,
    /// Where midnight is.
    pub offset: FixedOffset,
}

impl Hours {
    /// Whether a moment lies in them.
    pub fn hold(&self, at: DateTime<Utc>) -> bool {
        use chrono::Datelike;
        let local = at.with_timezone(&self.offset);
        let minute = local.hour() * 60 + local.minute();
        let today = local.weekday().num_days_from_monday() as usize;
        let day = |n: usize| self.days.get(n % 7).copied().unwrap_or(false);
        if self.from_minute < self.to_minute {
            return day(today) && (self.from_minute..self.to_minute).contains(&minute);
        }
        (day(today) && minute >= self.from_minute) || (day(today + 6) && minute < self.to_minute)
    }
}

/// What follows when nobody answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Escalation {
    /// So long after the alert was raised.
    pub after: TimeDelta,
    /// Also when it was acknowledged.
    pub even_acked: bool,
    /// Under this name.
    pub event: String,
}

/// How far a patient's own limit may go.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Bounds {
    pub low: f64,
    pub high: f64,
}

impl Leaf {
    /// Of what; `None` for every vital.
    pub fn vital(&self) -> Option<Vital> {
        match self {
            Leaf::Threshold { vital, .. }
            | Leaf::Delta { vital, .. }
            | Leaf::Count { vital, .. } => Some(*vital),
            Leaf::Missing { vital, .. } | Leaf::Suspect { vital } => *vital,
            Leaf::Score { .. } => None,
        }
    }

    /// Whether it tells of a device and not of the patient.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Leaf::Missing { .. } | Leaf::Suspect { .. })
    }
}

impl Rule {
    /// The rule's one comparison, if it is nothing but that: then nothing has to be
    /// remembered of a patient who is well.
    pub fn threshold(&self) -> Option<(Vital, Op, f64, f64)> {
        match (&self.when.tree, &*self.when.leaves) {
            (Node::Leaf(_), [Leaf::Threshold { vital, op, value, clear }]) => {
                Some((*vital, *op, *value, *clear))
            }
            _ => None,
        }
    }

    /// The same rule, without what follows when nobody answers.
    pub fn without_repeats(self) -> Rule {
        Rule { re_alarm: None, escalate: Vec::new(), ..self }
    }

    /// Whether it looks at what is no sign of the patient but of the device.
    pub fn looks_at_devices(&self) -> bool {
        self.when.leaves.iter().any(Leaf::is_of_device)
    }

    /// Whether it looks at silences.
    pub fn has_missing(&self) -> bool {
        self.when.leaves.iter().any(|leaf| matches!(leaf, Leaf::Missing { .. }))
    }

    /// Whether it looks at readings that no living patient shows.
    pub fn has_suspect(&self) -> bool {
        self.when.leaves.iter().any(|leaf| matches!(leaf, Leaf::Suspect { .. }))
    }

    /// Whether time alone can move it.
    pub fn has_timers(&self) -> bool {
        self.re_alarm.is_some() || !self.escalate.is_empty() || self.has_missing()
    }

    /// Whether a reading of this vital could change anything.
    pub fn concerns(&self, vital: Vital) -> bool {
        self.when.leaves.iter().any(|leaf| match leaf {
            Leaf::Score { .. } => super::news2::PARAMETERS.contains(&vital),
            leaf => leaf.vital().is_none_or(|of| of == vital),
        })
    }

    /// The loosest number that could raise for anybody, personal limits included.
    pub fn loosest(&self) -> Option<(Vital, Op, f64)> {
        let (vital, op, value, _) = self.threshold()?;
        let number = match self.bounds {
            None => value,
            Some(bounds) if op.is_upward() => bounds.low.min(value),
            Some(bounds) => bounds.high.max(value),
        };
        Some((vital, op, number))
    }
}
