//! Whose rows a question may see: the second wall, behind the tenant in its own `where`.
//!
//! Guarantees that a connection of the role [`super::roles::TENANT`] sees, of every table
//! with a tenant, only the rows of the one that its task answers; and none at all in a task
//! that is not of any answer. Does not keep out who may say SQL of their own: they could name
//! another tenant. It is for a `where` that somebody forgot.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::poll_fn;
use sqlx::PgConnection;

tokio::task_local! {
    /// Whom this task answers.
    static TENANT: Arc<str>;
}

/// Answers somebody of a tenant.
pub async fn as_tenant<T>(tenant: Arc<str>, answer: impl Future<Output = T>) -> T {
    TENANT.scope(tenant, answer).await
}

/// The same for an answer that goes on when its beginning was given.
pub fn stream_as_tenant<S: Stream>(tenant: Arc<str>, stream: S) -> impl Stream<Item = S::Item> {
    let mut stream: Pin<Box<S>> = Box::pin(stream);
    poll_fn(move |cx| TENANT.sync_scope(tenant.clone(), || stream.as_mut().poll_next(cx)))
}

/// Tells a connection whom this task answers, whomever it answered before.
pub async fn set_tenant(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let tenant = TENANT.try_with(Arc::clone).ok();
    sqlx::query("select set_config('vitals.tenant', $1, false)")
        .bind(tenant.as_deref().unwrap_or_default())
        .execute(connection)
        .await
        .map(|_| ())
}
