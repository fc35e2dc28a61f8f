//! Words that stand in the tables of deliveries, each column's in a type of its own.
//!
//! Guarantees that a word is written in one place only, as it is stored, told and counted, and
//! that a text which is none of them is an error wherever a row is read. Does not say what a
//! state means: the code that changes it does.

/// A text of the database that is none of a column's words.
#[derive(Debug, thiserror::Error)]
#[error("\"{text}\" is no {what} that this version knows")]
pub struct UnknownWord {
    /// The type that it should be of.
    pub what: &'static str,
    /// As stored.
    pub text: String,
}

/// An enum whose variants are a column's words.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// As it is stored and told.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }

            /// Reads what [`Self::name`] writes.
            pub fn of(name: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|word| word.name() == name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::delivery::state::UnknownWord;

            fn try_from(text: String) -> Result<$name, Self::Error> {
                let what = stringify!($name);
                $name::of(&text).ok_or($crate::delivery::state::UnknownWord { what, text })
            }
        }
    };
}
pub(super) use words;

words! {
    /// Whether an endpoint is delivered to.
    EndpointState {
        /// It is.
        Active = "active",
        /// Its deliveries wait.
        Paused = "paused",
        /// None are made for it.
        Disabled = "disabled",
    }
}

words! {
    /// How a delivery stands.
    DeliveryState {
        /// It waits for an attempt, or one is under way.
        Pending = "pending",
        /// The endpoint took it.
        Delivered = "delivered",
        /// It was given up.
        Dead = "dead",
    }
}

words! {
    /// How a breaker stands that is not closed.
    BreakerState {
        /// Nothing is sent.
        Open = "open",
        /// One delivery is sent to see whether the endpoint is back.
        HalfOpen = "half_open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reads_as_what_it_was_written_and_another_is_an_error() {
        for state in EndpointState::ALL {
            assert_eq!(EndpointState::try_from(state.name().to_owned()).unwrap(), *state);
        }
        for state in DeliveryState::ALL {
            assert_eq!(DeliveryState::of(state.name()), Some(*state));
        }
        assert_eq!(BreakerState::of("half_open"), Some(BreakerState::HalfOpen));
        let unknown = EndpointState::try_from("asleep".to_owned()).unwrap_err().to_string();
        assert_eq!(unknown, "\"asleep\" is no EndpointState that this version knows");
    }
}
