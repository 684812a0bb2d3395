//! What nobody gets to see.

use bytes::Bytes;
use quorate_test_servers::{Http, answer};
use serde_json::{Value, json};

use super::conformance::Time;
use super::lines::{credentials, object, surroundings};
use crate::{Condition, Put, Spec, open};

const SECRET: &str = "hush-hush-tell-nobody";

/// Neither stores nor their settings show a secret when they are printed, nor do errors: also if the store repeats what it was
/// told, as it is or as it went over the wire.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_no_text() {
    let echo = Http::start(|request| {
        let told: Vec<&str> = request.headers().values().filter_map(|value| value.to_str().ok()).collect();
        answer(500, format!("{SECRET} was told {}", told.join(", ")))
    })
    .await;
    let at = |scheme: &str, rest: &str| format!("{scheme}://127.0.0.1:{}{rest}", echo.port);
    let (folder, time) = (tempfile::tempdir().unwrap(), Time::real());
    let credentials = credentials(
        &folder,
        &json!({"access_key_id": "id-of-somebody", "secret_access_key": SECRET, "session_token": SECRET, "password": SECRET,
            "username": "somebody", "account_key": SECRET, "token": SECRET}),
    );
    let stores = [
        json!({"type": "s3", "url": "s3://bucket", "endpoint": at("http", "")}),
        json!({"type": "gcs", "url": "gs://bucket", "endpoint": at("http", "")}),
        json!({"type": "azblob", "url": "azblob://container", "endpoint": at("http", ""), "account": "somebody"}),
        json!({"type": "webdav", "url": at("http", "/")}),
        json!({"type": "service", "url": at("http", "/{key}")}),
        json!({"type": "http", "url": at("http", "/{key}")}),
        json!({"type": "redis", "url": at("redis", "/0")}),
        json!({"type": "postgres", "url": at("postgres", "/database")}),
        json!({"type": "opensearch", "url": at("http", "")}),
    ];
    let encoded = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("somebody:{SECRET}"))
    };
    for settings in stores {
        let mut settings = object(settings);
        settings.extend([
            ("path".to_owned(), json!("shared")),
            ("timeout".to_owned(), json!("300ms")),
            ("credentials".to_owned(), credentials.clone()),
        ]);
        let kind = settings["type"].clone();
        let spec = Spec::parse(&settings).unwrap();
        let mut texts = vec![format!("{spec:?}"), Value::Object(spec.json().clone()).to_string()];
        match open(&spec, &surroundings(&time)) {
            Err(error) => texts.push(format!("{error} {error:?}")),
            Ok(store) => {
                texts.push(format!("{store:?}"));
                let value = Bytes::from_static(b"v");
                let put = Put { value, expires_at_ms: None, condition: Condition::Always, stamp: time.clock.stamp() };
                let errors = [
                    store.get(b"a").await.unwrap_err(),
                    store.put(b"a", &put).await.unwrap_err(),
                    store.delete(b"a", &Condition::Always).await.unwrap_err(),
                    store.check().await.unwrap_err(),
                ];
                texts.extend(errors.map(|error| format!("{error} {error:?}")));
            }
        }
        for text in texts {
            assert!(!text.contains(SECRET) && !text.contains(&encoded), "{kind}: {text}");
        }
    }
}
