//! Calls of the program, and a node with canned answers.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use quorate_api::problem::{Code, Current, MEDIA_TYPE, Problem, WriteOutcome};
use tokio::net::TcpListener;

/// A node with answers of the test's, on a thread that ends with the test's process.
pub(crate) struct CannedNode {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl CannedNode {
    /// One that gives one answer to everything.
    pub(crate) fn start(answer: impl Fn() -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        Self::reacting(move |_, _| answer())
    }

    /// One that is told what it was asked, as `METHOD target`, and the body.
    pub(crate) fn reacting(answer: impl Fn(&str, &str) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, remembered) = (Arc::new(answer), seen.clone());
        let serve = async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, seen) = (answer.clone(), remembered.clone());
                let service = service_fn(move |request| reply(request, answer.clone(), seen.clone()));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        };
        std::thread::Builder::new().spawn(move || runtime.block_on(serve)).unwrap();
        Self { url, seen }
    }

    pub(crate) fn refusing(code: Code, outcome: Option<WriteOutcome>, current: Option<Current>) -> Self {
        let problem = Problem { outcome, current, ..Problem::new(code, "as the test says") };
        Self::start(move || canned(problem.status, &[("content-type", MEDIA_TYPE)], serde_json::to_vec(&problem).unwrap()))
    }

    /// What it was asked, as `METHOD target body`.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Calls the program with this node as its endpoint.
    pub(crate) fn call(&self, arguments: &[&str]) -> Called {
        call(&[&["--endpoint", &self.url], arguments].concat(), b"")
    }
}

pub(crate) fn canned(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let builder = headers.iter().fold(Response::builder().status(status), |builder, (name, value)| builder.header(*name, *value));
    builder.body(Full::new(body.into())).unwrap()
}

async fn reply(
    request: Request<Incoming>,
    answer: Arc<impl Fn(&str, &str) -> Response<Full<Bytes>>>,
    seen: Arc<Mutex<Vec<String>>>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let asked = format!("{} {}", request.method(), request.uri());
    let body = request.into_body().collect().await?.to_bytes();
    let body = String::from_utf8_lossy(&body);
    seen.lock().unwrap().push(format!("{asked} {body}").trim_end().to_owned());
    Ok(answer(&asked, &body))
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) exit: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Called {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap()
    }
}

/// Calls the program, with nothing in the environment that could change what it does.
pub(crate) fn call(arguments: &[&str], stdin: &[u8]) -> Called {
    call_with(Command::new(env!("CARGO_BIN_EXE_quorate")).args(arguments), stdin)
}

pub(crate) fn call_with(command: &mut Command, stdin: &[u8]) -> Called {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Called { exit: status.code().unwrap(), stdout, stderr: String::from_utf8(stderr).unwrap() }
}
