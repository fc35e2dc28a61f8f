//! A browser as far as it matters: cookies, where it comes from, and no redirect on its own.

use std::collections::BTreeMap;

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::provider::Provider;
use crate::support::described::Exchange;
use crate::support::server::{Server, client_builder};

/// How the outside reaches the tests' servers, as they are told.
pub const ORIGIN: &str = "http://127.0.0.1:1";

pub struct Browser {
    client: reqwest::Client,
    base: String,
    cookies: BTreeMap<String, String>,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    pub fn location(&self) -> &str {
        let location = self.headers.get("location").map(|value| value.to_str().unwrap());
        location.unwrap_or_else(|| panic!("it leads nowhere: {} {}", self.status, self.text))
    }

    /// The line that sets a cookie.
    pub fn cookie(&self, name: &str) -> String {
        let all = self.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
        let line = all.into_iter().find(|line| line.starts_with(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no cookie {name}: {} {}", self.status, self.text)).to_owned()
    }
}

impl Browser {
    pub fn new(server: &Server) -> Browser {
        let client = client_builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Browser { client, base: server.url(""), cookies: BTreeMap::new() }
    }

    /// One in which somebody has signed in.
    pub async fn signed_in(server: &Server, provider: &Provider, person: Value) -> Browser {
        let mut browser = Browser::new(server);
        let ended = browser.signs_in(provider, person).await;
        assert_eq!(ended.status, 303, "{}", ended.text);
        browser
    }

    /// What comes of signing in.
    pub async fn signs_in(&mut self, provider: &Provider, person: Value) -> Answer {
        let begun = self.get("/auth/login").await;
        let callback = provider.signed_in(begun.location(), person);
        self.get(&callback).await
    }

    /// From now on it is this one that answers.
    pub fn server(&mut self, server: &Server) {
        self.base = server.url("");
    }

    pub fn has(&self, name: &str) -> bool {
        self.cookies.contains_key(name)
    }

    pub fn cookies(&self) -> Vec<String> {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    pub fn keep(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    /// Follows an address, and keeps what it is given.
    pub async fn get(&mut self, path: &str) -> Answer {
        let answer = self.get_as_is(path).await;
        self.take(&answer);
        answer
    }

    pub async fn get_as_is(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    /// As our page posts.
    pub async fn post(&mut self, path: &str, body: &str) -> Answer {
        let csrf = self.csrf().await;
        let headers = [("origin", ORIGIN), ("x-csrf-token", &*csrf)];
        let answer = self.send("POST", path, &headers, Some(body)).await;
        self.take(&answer);
        answer
    }

    pub async fn session(&self) -> Value {
        self.get_as_is("/auth/session").await.json
    }

    pub async fn csrf(&self) -> String {
        self.session().await["csrf"].as_str().expect("a session").to_owned()
    }

    /// A stream that is open.
    pub async fn open(&self, path: &str) -> reqwest::Response {
        let cookies = self.cookies().join("; ");
        let request = self.client.get(format!("{}{path}", self.base)).header("cookie", cookies);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.request(method.parse().unwrap(), &url);
        if !headers.iter().any(|(name, _)| *name == "cookie") && !self.cookies.is_empty() {
            request = request.header("cookie", self.cookies().join("; "));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        Exchange {
            method,
            url: &url,
            sent: body.map(str::as_bytes),
            status,
            content_type: headers.get("content-type").and_then(|kind| kind.to_str().ok()),
            text: &text,
        }
        .check();
        let json = serde_json::from_str(&text).unwrap_or_default();
        Answer { status, headers, text, json }
    }

    fn take(&mut self, answer: &Answer) {
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            match line.contains("Max-Age=0") {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
    }
}
