//! Answers for a wall and for a phone, beside the general ones that they are made of.

use serde_json::{Value, json};

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::{Database, caught_up};
use crate::support::server::Server;

const VITALS: [(&str, f64); 7] = [
    ("heart_rate", 131.0),
    ("respiratory_rate", 18.0),
    ("spo2", 93.0),
    ("body_temperature", 37.2),
    ("systolic_bp", 120.0),
    ("diastolic_bp", 80.0),
    ("mean_bp", 93.0),
];

/// A patient with seven vitals, of which one is too high.
async fn fill(hospital: &Hospital, patient: &str, bed: &str) {
    let record = json!({ "ward": "4B", "bed": bed, "name": format!("Somebody in {bed}") });
    let (status, _) = hospital.put(&format!("/patients/{patient}/record"), &record).await;
    assert_eq!(status, 200);
    let readings: Vec<Value> = VITALS
        .iter()
        .map(|(vital, value)| {
            let mut reading = heart_rate(patient, *value, now());
            reading["vital"] = (*vital).into();
            reading.as_object_mut().unwrap().shift_remove("unit");
            reading
        })
        .collect();
    hospital.store(&readings).await;
}

#[tokio::test]
async fn a_wall_gets_in_one_answer_what_the_list_says() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    for (patient, bed) in [("b", "2"), ("a", "10"), ("c", "1")] {
        fill(&hospital, patient, bed).await;
    }
    caught_up(&database.pool()).await;
    let ward = hospital.found("/wards/4B").await;
    let list = hospital.found("/patients?ward=4B").await;
    let beds: Vec<&Value> =
        ward["patients"].as_array().unwrap().iter().map(|patient| &patient["bed"]).collect();
    assert_eq!(beds, ["1", "2", "10"], "in the order of the beds");
    assert_eq!((&ward["alerts"], &ward["isCut"]), (&json!(3), &json!(false)));
    for listed in list["items"].as_array().unwrap() {
        let shown = ward["patients"].as_array().unwrap().iter();
        let mut shown =
            shown.clone().find(|one| one["patientId"] == listed["patientId"]).unwrap().clone();
        let own = shown.as_object_mut().unwrap();
        let bed = own.shift_remove("bed").unwrap();
        assert_eq!(
            own.shift_remove("name").unwrap(),
            format!("Somebody in {}", bed.as_str().unwrap())
        );
        let mut listed = listed.clone();
        for state in [&mut shown, &mut listed] {
            for vital in state["vitals"].as_object_mut().unwrap().values_mut() {
                vital["ageSeconds"] = 0.into();
            }
        }
        assert_eq!(shown, listed);
    }
    assert_eq!(ward["news2"], list["items"][0]["news2"]["score"]);
    let nobody = hospital.found("/wards/elsewhere").await;
    assert_eq!((&nobody["patients"], &nobody["news2"]), (&json!([]), &Value::Null));
}

#[tokio::test]
async fn who_names_fields_gets_these_and_a_name_that_is_none_is_refused() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    for (patient, bed) in [("a", "1"), ("b", "2")] {
        fill(&hospital, patient, bed).await;
    }
    caught_up(&database.pool()).await;
    let state = hospital.found("/patients/a?fields=patientId,vitals.spo2.value,news2.score").await;
    let score = hospital.found("/patients/a").await["news2"]["score"].clone();
    let only = json!({
        "patientId": "a", "vitals": { "spo2": { "value": 93 } }, "news2": { "score": score }
    });
    assert_eq!(state, only);
    let list = hospital.found("/patients?limit=1&fields=patientId,ward").await;
    assert_eq!(list["items"], json!([{ "patientId": "a", "ward": "4B" }]));
    let next = list["_links"]["next"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
    let second = hospital.found(next).await;
    assert_eq!(second["items"], json!([{ "patientId": "b", "ward": "4B" }]), "a link keeps them");
    let ward = hospital.found("/wards/4B?fields=patients.bed").await;
    assert_eq!(ward, json!({ "patients": [{ "bed": "1" }, { "bed": "2" }] }));
    let readings = hospital.found("/patients/a/readings?vital=spo2&fields=value").await;
    assert_eq!(readings["items"], json!([{ "value": 93 }]));
    let alerts = hospital.found("/alerts?patientId=a&fields=event,priority").await;
    assert_eq!(alerts["items"], json!([{ "event": "HIGH_HEART_RATE", "priority": "high" }]));
    for path in ["/patients/a", "/patients", "/wards/4B", "/patients/a/readings", "/alerts"] {
        let (status, problem) = hospital.get(&format!("{path}?fields=patientid")).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_fields")), "{path}");
        assert!(problem["detail"].as_str().unwrap().contains("there are "), "{problem}");
    }
}

#[tokio::test]
async fn a_phone_gets_fewer_than_500_bytes() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let patient = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
    fill(&hospital, patient, "12").await;
    caught_up(&database.pool()).await;
    let mobile = hospital.found(&format!("/mobile/patients/{patient}")).await;
    let state = hospital.found(&format!("/patients/{patient}")).await;
    let bytes = mobile.to_string().len();
    assert!(bytes < 500, "{bytes}: {mobile}");
    for (vital, value) in VITALS {
        assert_eq!(mobile["vitals"][vital]["value"].as_f64(), Some(value), "{mobile}");
    }
    assert_eq!(mobile["news2"]["score"], state["news2"]["score"]);
    assert_eq!((&mobile["alerts"], &mobile["bed"]), (&json!(1), &json!("12")));
    assert_eq!(mobile["alert"]["id"], state["alerts"][0]["id"]);
    assert_eq!(mobile["alert"]["acknowledged"], false);
}

#[tokio::test]
async fn a_list_is_followed_to_its_end_by_its_headers_alone() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let ids = ["a", "b", "c", "d", "e"];
    for id in ids {
        hospital.measure(id, 71.0).await;
    }
    caught_up(&database.pool()).await;
    let (mut path, mut found) = ("/patients?limit=2".to_owned(), Vec::new());
    loop {
        let answer = hospital.request(reqwest::Method::GET, &path).send().await.unwrap();
        let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        let page: Value = answer.json().await.unwrap();
        let items = page["items"].as_array().unwrap().iter();
        found.extend(items.map(|item| item["patientId"].as_str().unwrap().to_owned()));
        let Some(link) = link else { break };
        let (next, rel) = link.strip_prefix("</api/v1").unwrap().split_once('>').unwrap();
        assert_eq!((next, rel), (&page["_links"]["next"].as_str().unwrap()[7..], "; rel=\"next\""));
        path = next.to_owned();
    }
    assert_eq!(found, ids);
}
