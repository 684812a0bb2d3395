//! `GET /openapi.json`: this API as an OpenAPI 3.1 document, for programs that make clients, forms and tests of it.
//!
//! It stands at the root of the repository and is built in. The test below makes it anew from a table of operations, from the
//! types that travel, and from the tables of codes, engines and modes, and fails if something is said there that is not so here:
//!
//! ```sh
//! QUORATE_UPDATE=1 cargo test -p quorate-server openapi   # writes it
//! ```
//!
//! `crates/server/tests/rest/openapi.rs` asks a server for everything that it documents, `tools/schemathesis.sh` for much more.

#[cfg(test)]
mod document;
#[cfg(test)]
mod of_keyspaces;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod parameters;

use axum::extract::RawQuery;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::admin::{Result, no_parameters};
use super::answer::{self, JSON};

const DOCUMENT: &[u8] = include_bytes!("../../../../openapi.json");

/// The document.
pub(super) async fn document(query: RawQuery) -> Result {
    no_parameters(&query)?;
    let mut headers = answer::headers();
    headers.insert(CONTENT_TYPE, JSON);
    Ok(answer::with_body(StatusCode::OK, headers, DOCUMENT.into()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::{env, fs};

    use super::operations::operations;
    use super::{DOCUMENT, document};

    #[test]
    fn openapi_json_says_what_the_code_says() {
        let made = document::made() + "\n";
        if env::var_os("QUORATE_UPDATE").is_some() {
            fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.json"), &made).unwrap();
            return;
        }
        let told = std::str::from_utf8(DOCUMENT).unwrap();
        if let Some((line, (told, made))) = (1..).zip(told.lines().zip(made.lines())).find(|(_, (told, made))| told != made) {
            panic!("openapi.json:{line} says {told}, should say {made}: QUORATE_UPDATE=1 cargo test -p quorate-server openapi");
        }
        assert_eq!(
            told.len(),
            made.len(),
            "openapi.json ends differently: QUORATE_UPDATE=1 cargo test -p quorate-server openapi"
        );
    }

    /// What is dispatched by hand is not found by this; the operations of those few routes stand together in one file.
    #[test]
    fn every_route_of_the_router_is_documented() {
        let documented: BTreeSet<String> = operations().iter().map(|operation| shape(operation.path)).collect();
        let mut routed = BTreeSet::new();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rest")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let source = fs::read_to_string(path).unwrap();
                let literals = source.split(concat!(".route", "(\"")).skip(1).filter_map(|rest| rest.split('"').next());
                routed.extend(literals.map(shape));
            }
        }
        assert!(routed.len() > 10, "the routes were not found: {routed:?}");
        let missing: Vec<&String> = routed.difference(&documented).collect();
        assert!(missing.is_empty(), "routes that openapi/operations.rs does not have: {missing:?}");
    }

    /// A path without the names of its parameters.
    fn shape(path: &str) -> String {
        let segments = path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
        segments.collect::<Vec<_>>().join("/")
    }
}
