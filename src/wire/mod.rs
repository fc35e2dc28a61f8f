//! What goes over the wire: answers, events of a stream, bodies of webhooks and problems.
//!
//! Guarantees one type for one thing wherever it appears, and that the API's description is
//! derived from the types which write the answers: a field stands in one place. Does not
//! know HTTP, and asks nothing: who answers fills these in.

mod access;
mod alert;
mod api_key;
mod asked;
mod device;
mod endpoint;
mod export;
mod front;
mod health;
mod history;
mod job;
mod page;
mod problem;
mod record;
mod root;
mod rule;
mod schema;
mod session;
mod silence;
mod state;
mod stream;
mod value;
mod webhook;

pub use access::{Access, AccessAction, AccessBy};
pub use alert::{
    Acknowledged, Acknowledgement, Alert, AlertState, AlertWithHistory, OnTrial, Raising, Said, Via,
};
pub use api_key::{ApiKey, ApiKeyWithSecret, NewApiKey};
pub use asked::{
    AcknowledgementRequest, ChangedWebhook, NewSilence, NewWebhook, Readings, Replay, Retraction,
    Revocation, Rotation, SentReading,
};
pub use device::{
    Assignment, DeviceAtPatients, DeviceInRegistry, DeviceRegistration, EndedAssignment,
    NewAssignment, Reassignment, RegisteredDevice,
};
pub use endpoint::{
    Attempt, Breaker, BreakerState, Delivery, DeliveryState, DeliveryWithAttempts, EndpointState,
    Numbered, NumberedEvent, Payload, Ping, Replayed, Signature, Told, Webhook, WebhookWithSecret,
};
pub use export::{ExportResult, NewExport, TableFormat};
pub use front::{InBed, Mobile, MobileAlert, MobileScore, MobileValue, Ward};
pub use health::{Found, Health};
pub use history::{
    Bucket, Device, History, IntervalFrom, Item, Newest, Reading, Rejected, Retracted,
    RevokedTokens, Stored, ValueByName,
};
pub use job::{
    Compared, Job, JobKind, JobProgress, JobResult, JobStarted, JobState, PatientNumbers, Report,
    Setting, WardNumbers,
};
pub use page::{Page, PageLinks};
pub use problem::{Problem, ProblemLinks};
pub use record::{Changed, Record, RecordOf};
pub use root::{Allowed, Root};
pub use rule::{
    Backtest, Mode, Pages, PagesOf, Rule, RuleVersion, ShadowDay, ShadowReport, WrittenRule,
};
pub use schema::{Shape, Shapes, shape};
pub use session::{BrowserSession, SignedOut, StreamTicket};
pub use silence::{HeldBack, Silence, SilenceReceipt};
pub use state::{
    Band, ChangeOfAlert, ChangeOfReading, ChangedAlert, ChangedReading, Current, Diff, DiffLinks,
    News2, RetractedSince, State,
};
pub use stream::{End, Events, Lagging, LogRestored, RestoredPlace, StreamEvent};
pub use value::{Context, Id, Links, Members, Number, Opinion, Quality, Time, Unit};
pub use webhook::{
    AlertBody, AlertBodyLinks, AlertStub, HeartbeatBody, NoticeBody, NoticeBodyLinks, PingBody,
    PingBodyLinks,
};
