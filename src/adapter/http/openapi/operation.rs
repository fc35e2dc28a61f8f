//! A request that the API takes: what it asks for, and what it answers.
//!
//! Guarantees that the schema of an answer is that of the handler's own type. The table of
//! them is [`super::operations`].

use schemars::JsonSchema;

use super::answers::Answers;
use crate::auth::{Caller, Scope};
use crate::wire::{Shape, shape};

/// All that there are, for who has to know them without being one of them.
#[derive(Clone, Copy)]
pub struct Operations(pub &'static [Operation]);

/// A route with a method.
pub struct Operation {
    /// In lower case.
    pub method: &'static str,
    /// Below `/api/v1`.
    pub path: &'static str,
    /// That it will go.
    pub deprecated: Option<Deprecated>,
    /// Which scope of a token it takes; any good token where it names none.
    pub scope: Option<Scope>,
    /// Another scope that will do, by what it is about.
    pub or: &'static [Scope],
    /// How far a token may be narrowed for it.
    pub narrowed: Narrowed,
    /// Whether it takes a token that is narrowed to wards. What does not say so refuses one:
    /// a route that was forgotten is shut.
    pub in_wards: bool,
    /// Whether the link of a page opens it, too.
    pub by_link: bool,
    /// Whether a ticket of a stream opens it, too.
    pub by_ticket: bool,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Names of `operations::PARAMETERS`; `limit<=500` is a limit of at most 500.
    pub query: &'static [&'static str],
    /// The schema of its body, and the media types beside JSON that it comes in.
    pub body: Option<(Shape, &'static [&'static str])>,
    /// Whether it may do without that.
    pub may_be_empty: bool,
    /// The statuses of its answers, and what they hold.
    pub statuses: &'static [u16],
    /// See `statuses`.
    pub answer: Answer,
    /// Whether it says where what was made is found.
    pub is_located: bool,
    /// The media types of an answer beside that of its schema.
    pub also_as: &'static [&'static str],
    /// Whether `Last-Event-ID` resumes it.
    pub resumes: bool,
    /// Whether it has an ETag, and answers 304 to who has that already.
    pub is_tagged: bool,
    /// Beside those of every operation, and of every body.
    pub refusals: &'static [Refusals],
}

/// Something better is in its place.
#[derive(Clone, Copy, Debug)]
pub struct Deprecated {
    /// Seconds since 1970.
    pub since: i64,
    /// From when on it may be gone, as HTTP writes a time.
    pub sunset: &'static str,
    /// What takes its place.
    pub instead: &'static str,
}

/// How far a token may be narrowed for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrowed {
    /// To a device or to a patient: then it is about theirs.
    ToDevice,
    /// To a patient, and not to a device.
    ToPatient,
    /// Not at all: it is about the tenant.
    Not,
}

/// What an answer holds.
#[derive(Clone, Copy)]
pub enum Answer {
    /// No body.
    Nothing,
    /// JSON of a type.
    Json(Shape),
    /// Server-Sent Events.
    Events,
    /// HTML.
    Page,
    /// Bytes, of a kind that the media type says.
    File,
}

/// Statuses, and the codes of the problems that come with them.
pub type Refusals = &'static [(u16, &'static str)];

impl Operation {
    pub(super) const fn query(mut self, names: &'static [&'static str]) -> Operation {
        self.query = names;
        self
    }

    pub(super) const fn body<T: JsonSchema>(self) -> Operation {
        self.body_also_as::<T>(&[])
    }

    pub(super) const fn body_also_as<T: JsonSchema>(
        mut self,
        media_types: &'static [&'static str],
    ) -> Operation {
        self.body = Some((shape::<T>(), media_types));
        self
    }

    pub(super) const fn may_be_empty(mut self) -> Operation {
        self.may_be_empty = true;
        self
    }

    pub(super) const fn of_patients(mut self) -> Operation {
        self.narrowed = Narrowed::ToPatient;
        self
    }

    pub(super) const fn of_tenant(mut self) -> Operation {
        self.narrowed = Narrowed::Not;
        self
    }

    /// It will go. No route of version 1 does so far.
    #[cfg_attr(not(test), expect(dead_code, reason = "no route is marked yet"))]
    pub(in crate::adapter::http) const fn until(mut self, deprecated: Deprecated) -> Operation {
        self.deprecated = Some(deprecated);
        self
    }

    /// It is about those who lie in the wards of a token that is narrowed to wards: the
    /// patient of its path is (`wards.rs` has looked), or its handler leaves out the others.
    pub(super) const fn in_wards(mut self) -> Operation {
        self.in_wards = true;
        self
    }

    /// Whether it takes a token that is narrowed as this one.
    pub fn takes(&self, caller: &Caller) -> bool {
        let (to_device, to_patient) = (caller.device.is_some(), caller.patient.is_some());
        let to_wards = self.scope.is_some_and(|scope| caller.wards.of(scope).is_some());
        (self.in_wards || !to_wards)
            && match self.narrowed {
                Narrowed::ToDevice => true,
                Narrowed::ToPatient => !to_device,
                Narrowed::Not => !to_device && !to_patient,
            }
    }

    /// With other scopes as well: whether one is enough, what is asked for decides.
    pub(super) const fn or(mut self, scopes: &'static [Scope]) -> Operation {
        self.or = scopes;
        self
    }

    /// The scopes of which it takes one; any good token where there are none.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> + Clone {
        self.scope.into_iter().chain(self.or.iter().copied())
    }

    pub(super) const fn by_link(mut self) -> Operation {
        self.by_link = true;
        self
    }

    pub(super) const fn by_ticket(mut self) -> Operation {
        self.by_ticket = true;
        self
    }

    pub(super) const fn resumes(mut self) -> Operation {
        self.resumes = true;
        self
    }

    /// 200 with what a handler answers, or 304.
    pub(super) const fn tagged<A, H: Answers<A>>(mut self, handler: &H) -> Operation {
        self.is_tagged = true;
        self.answers(&[200], handler)
    }

    /// What a handler answers, by these statuses.
    pub(super) const fn answers<A, H: Answers<A>>(
        self,
        statuses: &'static [u16],
        _: &H,
    ) -> Operation {
        self.holds(statuses, Answer::Json(shape::<H::Body>()))
    }

    pub(super) const fn events(self) -> Operation {
        self.holds(&[200], Answer::Events)
    }

    pub(super) const fn page(self) -> Operation {
        self.holds(&[200], Answer::Page)
    }

    /// Bytes with an ETag, whole, in a range, or 304.
    pub(super) const fn file(mut self) -> Operation {
        self.is_tagged = true;
        self.holds(&[200, 206], Answer::File)
    }

    pub(super) const fn nothing(self) -> Operation {
        self.holds(&[204], Answer::Nothing)
    }

    pub(super) const fn holds(mut self, statuses: &'static [u16], answer: Answer) -> Operation {
        self.statuses = statuses;
        self.answer = answer;
        self
    }

    pub(super) const fn located(mut self) -> Operation {
        self.is_located = true;
        self
    }

    pub(super) const fn also_as(mut self, media_types: &'static [&'static str]) -> Operation {
        self.also_as = media_types;
        self
    }

    pub(super) const fn refuses(mut self, refusals: &'static [Refusals]) -> Operation {
        self.refusals = refusals;
        self
    }
}

pub(super) const fn on(
    method: &'static str,
    path: &'static str,
    scope: Scope,
    summary: &'static str,
) -> Operation {
    let any = by_anybody(method, path, summary);
    Operation { scope: Some(scope), ..any }
}

/// Whoever has a good token.
pub(in crate::adapter::http) const fn by_anybody(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
) -> Operation {
    Operation {
        method,
        path,
        deprecated: None,
        scope: None,
        or: &[],
        narrowed: Narrowed::ToDevice,
        in_wards: false,
        by_link: false,
        by_ticket: false,
        summary,
        query: &[],
        body: None,
        may_be_empty: false,
        statuses: &[],
        answer: Answer::Nothing,
        is_located: false,
        also_as: &[],
        resumes: false,
        is_tagged: false,
        refusals: &[],
    }
}
