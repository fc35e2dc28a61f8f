//! Which trace something belongs to, as W3C's Trace Context writes it.
//!
//! Guarantees that what is malformed is no context, as that recommendation demands: then there
//! is none, and nobody is told. Of the flags it knows "sampled" alone; others are not passed on.
//! Does not decide whether anything is recorded.

use std::fmt;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The longest `tracestate` that is passed on: what W3C asks for. A longer one is left out.
const TRACESTATE_BYTES_MAX: usize = 512;

/// A trace, and the span in it that is the parent of what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext(pub(super) SpanContext);

impl TraceContext {
    /// Reads a `traceparent`, and the `tracestate` that came with it.
    ///
    /// A version that is not known is read as version 00, as far as that goes.
    pub fn read(traceparent: &str, tracestate: Option<&str>) -> Option<TraceContext> {
        let is_hex = |part: &&str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = traceparent.splitn(5, '-');
        let mut part = |bytes| parts.next().filter(|part| part.len() == bytes).filter(is_hex);
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
        let state = tracestate.filter(|state| state.len() <= TRACESTATE_BYTES_MAX);
        let state = state.and_then(|state| state.parse().ok()).unwrap_or(TraceState::NONE);
        let context = SpanContext::new(trace, span, flags, true, state);
        context.is_valid().then_some(TraceContext(context))
    }

    /// For a header or an event.
    pub fn traceparent(&self) -> String {
        let (trace, span, flags) = (self.0.trace_id(), self.0.span_id(), self.0.trace_flags());
        format!("00-{trace}-{span}-{flags:02x}")
    }

    /// What goes with it, if anything does.
    pub fn tracestate(&self) -> Option<String> {
        let state = self.0.trace_state().header();
        (!state.is_empty() && state.len() <= TRACESTATE_BYTES_MAX).then_some(state)
    }

    /// Both in one text, to be kept.
    pub fn stored(&self) -> String {
        match self.tracestate() {
            Some(state) => format!("{} {state}", self.traceparent()),
            None => self.traceparent(),
        }
    }

    /// Reads what [`TraceContext::stored`] wrote.
    pub fn of_stored(text: &str) -> Option<TraceContext> {
        match text.split_once(' ') {
            Some((traceparent, state)) => TraceContext::read(traceparent, Some(state)),
            None => TraceContext::read(text, None),
        }
    }

    /// Whether somebody records it.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> impl fmt::Display {
        self.0.trace_id()
    }

    /// 16 hexadecimal digits.
    pub fn span_id(&self) -> impl fmt::Display {
        self.0.span_id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(traceparent: &str) -> Option<TraceContext> {
        TraceContext::read(traceparent, None)
    }

    /// The recommendation's own examples, and what its test suite sends.
    #[test]
    fn what_w3c_calls_valid_is_read() {
        let context = read(EXAMPLE).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled());
        assert_eq!(context.traceparent(), EXAMPLE);
        let not = read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap();
        assert!(!not.is_sampled());
        // Flags that are not known are not passed on.
        let flags = read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff").unwrap();
        assert_eq!(flags.traceparent(), EXAMPLE);
        // Of a later version what is known of it, with and without more behind it.
        for later in ["cc-", "01-"] {
            for more in ["", "-", "-what-the-future-will-be-like"] {
                let text = format!("{later}{}{more}", &EXAMPLE[3..]);
                assert_eq!(
                    read(&text).map(|c| c.traceparent()).as_deref(),
                    Some(EXAMPLE),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn what_w3c_calls_invalid_is_ignored() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        for bad in [
            "".to_owned(),
            "00".to_owned(),
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-"),
            format!("00-{trace}-{span}-01-what-the-future-will-be-like"),
            format!("00-{trace}-{span}-01.what"),
            format!("cc-{trace}-{span}-01.what"),
            format!("0-{trace}-{span}-01"),
            format!("000-{trace}-{span}-01"),
            format!("+0-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{}-01", span.to_uppercase()),
            format!("00-{trace}-{span}-0A"),
            format!("00-{trace}-{span}-.0"),
            format!("00-{trace}-{span}-1"),
            format!("00-{trace}-{span}"),
            format!("00-{}-{span}-01", &trace[1..]),
            format!("00-{trace}-{span}0-01"),
            format!("00-{}ä-{span}-01", &trace[2..]),
            format!("00_{trace}_{span}_01"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_state_is_passed_on_if_it_is_one_and_not_too_long() {
        let state = |text: &str| TraceContext::read(EXAMPLE, Some(text)).unwrap().tracestate();
        let example = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
        assert_eq!(state(example).as_deref(), Some(example));
        assert_eq!(state("a=1 ,\t b=2,").as_deref(), Some("a=1,b=2"));
        for bad in ["", "no", "A=1", "a=b=c", &format!("a={}", "x".repeat(TRACESTATE_BYTES_MAX))] {
            assert_eq!(state(bad), None, "{bad}");
        }
        for text in [None, Some(example)] {
            let context = TraceContext::read(EXAMPLE, text).unwrap();
            assert_eq!(TraceContext::of_stored(&context.stored()), Some(context));
        }
    }
}
