//! The guard against all that leads inwards, and for what does not.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn guard(allow: &[&str]) -> Guard {
    Guard::new(&allow.iter().map(|net| net.parse().unwrap()).collect::<Vec<Allow>>())
}

#[track_caller]
fn refused(guard: &Guard, url: &str, code: &str) {
    let error = guard.check_url(url).expect_err(url);
    assert_eq!(error.code(), code, "{url}: {error}");
}

#[test]
fn special_addresses_are_not_permitted_and_public_ones_are() {
    #[rustfmt::skip]
    let inner = [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1",
        "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
        "203.0.113.1", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110",
        "100.100.100.200", "192.0.0.192", "161.26.0.1", "166.8.0.1", "166.11.255.255",
        "199.36.153.4", "199.36.153.11", "192.31.196.1", "192.52.193.1", "192.175.48.1",
        "2620:4f:8000::1", "2001:0:a00:1::1", "::ffff:0:10.0.0.1", "5f00::1",
        "fd20:ce::254", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "100::1",
        "2001::1", "2001:db8::1", "2002:808:808::1", "3fff::1", "64:ff9b:1::808:808",
        "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "4000::1",
    ];
    for ip in inner {
        assert!(!guard(&[]).permits(ip.parse().unwrap()), "{ip}");
    }
    #[rustfmt::skip]
    let public = [
        "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
        "172.15.255.255", "172.32.0.0", "192.0.1.1", "198.17.255.255", "198.20.0.0",
        "223.255.255.255", "168.63.129.15", "168.63.129.17", "2606:4700::1111", "2a00:1450::1", "2001:200::1",
        "::ffff:1.1.1.1", "64:ff9b::101:101",
    ];
    for ip in public {
        assert!(guard(&[]).permits(ip.parse().unwrap()), "{ip}");
    }
}

#[test]
fn an_allowed_network_is_permitted_and_nothing_beside_it() {
    let guard = guard(&["127.0.0.0/8", "fd00::/8"]);
    for (ip, expect) in [
        ("127.0.0.1", true),
        ("::ffff:127.0.0.1", true),
        ("fd00::1", true),
        ("::1", false),
        ("0.0.0.0", false),
        ("fc00::1", false),
    ] {
        assert_eq!(guard.permits(ip.parse().unwrap()), expect, "{ip}");
    }
}

#[test]
fn what_is_allowed_to_one_tenant_at_one_port_is_nobody_elses() {
    let guard = guard(&["ward-4b=10.0.0.0/8:8443", "ward-5=192.168.0.0/16", "10.1.0.0/16:443"]);
    let code = |tenant: &str, url: &str| {
        guard.of_tenant(tenant).check_url(url).err().map(|refused| refused.code())
    };
    let refused = Some("webhook_address_refused");
    assert_eq!(code("ward-4b", "https://10.2.0.1:8443/"), None);
    assert_eq!(code("ward-4b", "https://10.2.0.1/"), refused);
    assert_eq!(code("ward-5", "https://10.2.0.1:8443/"), refused);
    assert_eq!(code("ward-5", "http://192.168.1.1/"), None);
    assert_eq!(code("ward-4b", "http://192.168.1.1/"), refused);
    assert_eq!(code("anybody", "https://10.1.0.1/"), None);
    assert_eq!(code("anybody", "http://10.1.0.1/"), refused);
    assert!(guard.check_url("http://192.168.1.1/").is_err(), "of nobody");
    // The resolver judges by the same.
    let url = |text: &str| reqwest::Url::parse(text).unwrap();
    let own = guard.of_tenant("ward-4b").at(&url("https://h.example:8443/"));
    assert!(own.permits("10.2.0.1".parse().unwrap()) && own.is_narrowed());
    let other = guard.of_tenant("ward-4b").at(&url("https://h.example/"));
    assert!(!other.permits("10.2.0.1".parse().unwrap()));
    assert!(!guard.of_tenant("x").at(&url("http://h.example/")).is_narrowed());
}

#[test]
fn every_spelling_of_an_inner_address_is_refused() {
    for url in [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1:8080/hook",
        "http://1\u{ff12}7.0.0.1/",
        "http:\\\\127.0.0.1\\",
        "http:/127.0.0.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:0]/",
        "http://localhost/",
        "http://localhost./",
        "http://LOCALHOST:80/",
        "http://a.localhost/",
        "http://169.254.169.254/latest/meta-data",
        "https://192.168.0.1./",
    ] {
        refused(&guard(&[]), url, "webhook_address_refused");
    }
}

#[test]
fn what_is_no_plain_web_address_is_refused() {
    let guard = guard(&["0.0.0.0/0", "::/0"]);
    refused(&guard, "hospital.example/hook", "webhook_url_unreadable");
    refused(&guard, "http://", "webhook_url_unreadable");
    refused(&guard, "http://256.1.1.1/", "webhook_url_unreadable");
    refused(&guard, "file:///etc/passwd", "webhook_url_scheme");
    refused(&guard, "https://user@hospital.example/", "webhook_url_userinfo");
    refused(&guard, "https://:word@hospital.example/", "webhook_url_userinfo");
    refused(&guard, "https://hospital.example/#part", "webhook_url_fragment");
    let long = format!("https://hospital.example/{}", "a".repeat(URL_BYTES_MAX));
    refused(&guard, &long, "webhook_url_too_long");
    assert!(guard.check_url(&long[..URL_BYTES_MAX]).is_ok());
}

#[test]
fn public_and_allowed_urls_pass() {
    for url in ["https://hospital.example/?a=1", "http://1.1.1.1:80/", "http://notlocalhost/"] {
        assert!(guard(&[]).check_url(url).is_ok(), "{url}");
    }
    let guard = guard(&["127.0.0.0/8"]);
    assert!(guard.check_url("http://127.0.0.1:9000/").is_ok());
    assert!(guard.check_url("http://localhost:9000/").is_ok());
    refused(&guard, "http://[::1]:9000/", "webhook_address_refused");
}

#[test]
fn a_refusal_names_the_mend() {
    let message = guard(&[]).check_url("http://10.0.0.1/").unwrap_err().to_string();
    assert!(message.contains("10.0.0.1 leads to a private address"), "{message}");
    assert!(message.contains("--allow-webhook-net"), "{message}");
}

#[test]
fn a_mixed_answer_is_refused_when_checked_and_sifted_when_connecting() {
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
    let mixed = vec![at("10.0.0.1"), at("1.1.1.1"), at("::1")];
    assert!(guard(&[]).all_permitted("h", &mixed).is_err());
    assert!(guard(&[]).all_permitted("h", &mixed[1..2]).is_ok());
    assert_eq!(guard(&[]).keep_permitted("h", mixed).unwrap(), [at("1.1.1.1")]);
    let inner = guard(&[]).keep_permitted("h", vec![at("10.0.0.1"), at("::1")]);
    assert_eq!(inner.unwrap_err().code(), "webhook_address_refused");
}

#[tokio::test]
async fn resolving_refuses_the_inside_and_lets_allowed_names_pass() {
    let url = |text: &str| reqwest::Url::parse(text).unwrap();
    for inner in ["http://localhost./", "http://[::ffff:127.0.0.1]/", "http://10.0.0.1/"] {
        let error = guard(&[]).check_resolved(&url(inner)).await.unwrap_err();
        assert_eq!(error.code(), "webhook_address_refused", "{inner}");
    }
    // A label over 63 bytes: fails without asking anybody.
    let nowhere = url(&format!("http://{}.invalid/", "x".repeat(64)));
    let nowhere = guard(&[]).check_resolved(&nowhere).await;
    assert_eq!(nowhere.unwrap_err().code(), "webhook_host_unresolved");
    guard(&["127.0.0.0/8"]).check_resolved(&url("http://localhost/")).await.unwrap();
}

/// `localhost` plays the name that was public when it was checked.
#[tokio::test]
async fn a_name_that_turned_inwards_after_the_check_is_never_connected_to() {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());

    let client = guard(&[]).client().build().unwrap();
    let limit = Duration::from_secs(5);
    let error = client.post(&url).timeout(limit).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert!(format!("{error:?}").contains("loopback"), "{error:?}");
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);

    // With the network allowed it does connect, and a redirect is not followed.
    let allowed = guard(&["127.0.0.0/8"]).client().build().unwrap();
    let sending = tokio::spawn(allowed.post(&url).send());
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let accepted = tokio::time::timeout(limit, listener.accept()).await.unwrap();
    let (mut stream, _) = accepted.unwrap();
    stream.read_buf(&mut Vec::with_capacity(1024)).await.unwrap();
    let answer = b"HTTP/1.1 302 Found\r\nlocation: /b\r\nconnection: close\r\n\r\n";
    stream.write_all(answer).await.unwrap();
    drop((stream, listener));
    assert_eq!(sending.await.unwrap().unwrap().status(), 302);
}
