//! What a handler answers, by its type.
//!
//! Guarantees that an operation's schema is of the type that its handler returns: there is
//! no second place to name it.

use schemars::JsonSchema;

use crate::adapter::http::problem::Problem;
use crate::adapter::http::reply::Reply;

/// A handler whose answer is a [`Reply`], of whatever it takes.
pub trait Answers<Taken> {
    /// What it answers.
    type Body: JsonSchema;
}

/// What has a body of one type.
pub trait OfBody {
    /// Which.
    type Body: JsonSchema;
}

impl<T: JsonSchema> OfBody for Reply<T> {
    type Body = T;
}

macro_rules! handlers {
    ($(($($taken:ident)*))*) => {$(
        impl<F, Fut, R, $($taken),*> Answers<($($taken,)*)> for F
        where
            F: Fn($($taken),*) -> Fut,
            Fut: Future<Output = Result<R, Problem>>,
            R: OfBody,
        {
            type Body = R::Body;
        }
    )*};
}

handlers! { (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E G) }
