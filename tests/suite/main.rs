//! The tests of the whole: one binary, because linking is what costs time.
//!
//! Each test has a PostgreSQL database of its own and, where it looks from outside,
//! a process of the real binary. They run in parallel and wait for conditions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    dead_code,
    reason = "tests fail loudly, and what they stand on is for all of them"
)]

mod support;

mod alarms;
mod answering;
mod answers;
mod api_keys;
mod archive;
mod archive_tampered;
mod assignments;
mod audit;
mod audit_syslog;
mod bodies;
mod breaker;
mod buckets;
mod chain;
mod chaos;
mod claims;
mod commands;
mod compressed;
mod connections;
mod corrections;
mod crash;
mod dashboards;
mod deliveries;
mod delivery_plans;
mod devices;
mod documents;
mod embedded;
mod endpoints;
mod evaluation;
mod exports;
mod fatigue;
mod faults;
mod floods;
mod fronts;
mod fuzz;
mod gathering;
mod guard;
mod health;
mod hospital;
mod hostile;
mod imports;
mod incarnation;
mod jobs;
mod judged_again;
mod keysets;
mod limits;
mod log;
mod model;
mod moments;
mod ndjson;
mod openapi;
mod origins;
mod pace;
mod pages;
mod parameters;
mod parked;
mod plans;
mod plans_moments;
mod projections;
mod questions;
mod readings;
mod reassign;
mod rebinding;
mod rebuild;
mod recordings;
mod records;
mod reference;
mod renewal;
mod replays;
mod return_trips;
mod revoked;
mod role_maps;
mod roles;
mod root;
mod rules;
mod sensors;
mod series;
mod shares;
mod signin;
mod starting;
mod stored;
mod streams;
mod streams_many;
mod supervised;
mod tables;
mod tenants;
mod tidy;
mod tls;
mod tokens;
mod traces;
mod transports;
mod trials;
mod upcasting;
mod verify;
mod walk;
mod ward_callers;
mod wards;
mod webhooks;
