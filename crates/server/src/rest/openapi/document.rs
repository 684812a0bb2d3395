//! From the table of operations to the document.

use std::collections::BTreeMap;

use quorate_api::entry::NDJSON;
use quorate_api::header;
use quorate_api::node::Message;
use quorate_api::problem::{Code, Facts, MEDIA_TYPE, Problem};
use quorate_api::watch::EVENT_STREAM;
use quorate_engine::KINDS;
use quorate_node::Mode;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::map::Entry;
use serde_json::{Map, Value, json};

use super::operations::{Content, Operation, operations};
use super::parameters;

/// The schemas of what is sent and of what is answered: a field with a default need not be sent, and is always answered.
pub(super) struct Schemas {
    sent: SchemaGenerator,
    answered: SchemaGenerator,
}

/// Names the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Value;

/// The schema of `T`, by reference to the components.
pub(super) fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// The document, as text.
pub(super) fn made() -> String {
    let mut schemas = Schemas::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations() {
        let described = described(&operation, &mut schemas);
        let path = paths.entry(operation.path).or_default();
        if operation.method == "get" {
            path.insert("head".to_owned(), head_of(&described));
        }
        let before = path.insert(operation.method.to_owned(), described);
        assert!(before.is_none(), "{} {} is there twice", operation.method, operation.path);
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quorate",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            "description": "A distributed key-value store. Every node takes every request. Errors are \
                `application/problem+json` with one of the codes of `ProblemCode`; those of the routes under `compat` are \
                `{\"message\": ...}`. Unknown query parameters are refused. A client may name its request with \
                `X-Request-Id`; problems and the node's log repeat it. Headers `Quorate-Meta-NAME` of a `PUT` are kept beside \
                the value and answered with it.",
        },
        "paths": paths,
        "components": {
            "parameters": parameters::components(),
            "headers": headers(),
            "schemas": schemas.components(),
        },
    });
    serde_json::to_string_pretty(&document).unwrap()
}

fn described(operation: &Operation, schemas: &mut Schemas) -> Value {
    let refer = |name: &&str| json!({"$ref": format!("#/components/parameters/{name}")});
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": operation.parameters.iter().map(refer).collect::<Vec<_>>(),
        "responses": responses(operation, schemas),
    });
    if let Some(body) = &operation.body {
        let schema = (body.schema)(&mut schemas.sent);
        let content: Map<String, Value> =
            body.media_types.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": schema}))).collect();
        let lines = body.has_lines.then(|| (NDJSON.to_owned(), lines()));
        let other = body.other.map(|(media_type, schema)| (media_type.to_owned(), json!({"schema": schema(&mut schemas.sent)})));
        let content: Map<String, Value> = content.into_iter().chain(other).chain(lines).collect();
        described["requestBody"] = json!({"required": body.is_required, "content": content});
    }
    described
}

/// `HEAD` is `GET` without the body.
fn head_of(get: &Value) -> Value {
    let mut head = get.clone();
    head["operationId"] = json!(format!("{}_head", get["operationId"].as_str().unwrap()));
    head["summary"] = json!(format!("{}: the head alone", get["summary"].as_str().unwrap()));
    for response in head["responses"].as_object_mut().unwrap().values_mut() {
        response.as_object_mut().unwrap().remove("content");
    }
    head
}

fn responses(operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    for answer in &operation.answers {
        let headers: Map<String, Value> =
            [header::NODE].iter().chain(answer.headers).map(|name| ((*name).to_owned(), header_ref(name))).collect();
        let mut response = json!({"description": answer.about, "headers": headers});
        if let Some(content) = content(answer.content, schemas) {
            response["content"] = content;
        }
        responses.insert(answer.status.to_string(), response);
    }
    let mut refused: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in &operation.codes {
        refused.entry(operation.status_of(*code)).or_default().push(*code);
    }
    for code in OF_HEAD.into_iter().filter(|_| !operation.is_compat()) {
        refused.entry(code.facts().status).or_default().push(code);
    }
    for (status, codes) in refused {
        let refusal = refusal(operation, &codes, schemas);
        match responses.get_mut(&status.to_string()) {
            Some(response) => response["content"][MEDIA_TYPE] = refusal["content"][MEDIA_TYPE].clone(),
            None => drop(responses.insert(status.to_string(), refusal)),
        }
    }
    for code in OF_HEAD.into_iter().filter(|_| operation.is_compat()) {
        let refusal = problem(&[code], schemas);
        let response = responses.entry(code.facts().status.to_string());
        match response {
            Entry::Occupied(mut there) => there.get_mut()["content"][MEDIA_TYPE] = refusal["content"][MEDIA_TYPE].clone(),
            Entry::Vacant(vacant) => drop(vacant.insert(refusal)),
        }
    }
    Value::Object(responses)
}

/// How heads are refused that no route gets to see, those of the compat routes in the same words as all others.
const OF_HEAD: [Code; 3] = [Code::MalformedRequest, Code::TargetTooLong, Code::HeadTooLarge];

/// One JSON object a line; what each is, the operation's summary says.
fn lines() -> Value {
    json!({"schema": {"type": "string"}})
}

fn content(content: Content, schemas: &mut Schemas) -> Option<Value> {
    match content {
        Content::None => None,
        Content::Json(schema) => Some(json!({"application/json": {"schema": schema(&mut schemas.answered)}})),
        Content::JsonOrLines(schema) => {
            Some(json!({"application/json": {"schema": schema(&mut schemas.answered)}, NDJSON: lines()}))
        }
        Content::Messages(schema) => {
            let schema = schema(&mut schemas.answered);
            Some(json!({EVENT_STREAM: {"schema": {"type": "string"}}, NDJSON: {"schema": schema}}))
        }
        Content::Backup => Some(json!({quorate_api::backup::MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}})),
        Content::Text => Some(json!({"text/plain": {"schema": {"type": "string"}}})),
        Content::Stored(schema) => {
            let schema = json!({"anyOf": [schema(&mut schemas.answered), {}]});
            Some(json!({"application/json": {"schema": schema}, "*/*": {"schema": {}}}))
        }
    }
}

/// Every code of one status; `ProblemCode` says what each means.
fn refusal(operation: &Operation, codes: &[Code], schemas: &mut Schemas) -> Value {
    if operation.is_compat() {
        let schema = of::<Message>(&mut schemas.answered);
        return json!({"description": told(codes), "content": {"application/json": {"schema": schema}}});
    }
    problem(codes, schemas)
}

fn told(codes: &[Code]) -> String {
    codes.iter().map(|code| format!("`{code}`")).collect::<Vec<_>>().join(", ")
}

fn problem(codes: &[Code], schemas: &mut Schemas) -> Value {
    let words: Vec<&str> = codes.iter().map(|code| code.facts().code).collect();
    let problem = of::<Problem>(&mut schemas.answered);
    let schema = json!({"allOf": [problem, {"properties": {"code": {"enum": words}}}]});
    json!({"description": told(codes), "content": {MEDIA_TYPE: {"schema": schema}}})
}

fn header_ref(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

fn headers() -> Map<String, Value> {
    let number = json!({"type": "integer", "minimum": 0});
    let told = [
        (header::NODE, json!({"type": "string"}), "The name of the node that answered."),
        (header::REVISION, number.clone(), "The shard's revision after a write, or of the view that was read."),
        ("etag", json!({"type": "string"}), "Names this content of the key, for ever."),
        (header::MOD_REVISION, number.clone(), "The revision of the key's last change."),
        (header::CREATE_REVISION, number.clone(), "The revision at which the key came to be."),
        (header::VERSION, number.clone(), "How many times the key was set since it came to be."),
        (header::STAMP, json!({"type": "string"}), "In an eventual keyspace: what the key's last change is known by. Opaque."),
        (header::REPLICATED, number.clone(), "In an eventual keyspace: how many other members are known to have the write."),
        (header::ANSWERED, json!({"type": "string"}), "How many other nodes answered the read, of how many, as in `2/2`."),
        (
            header::SESSION,
            json!({"type": "string"}),
            "What the client has seen now, in the answer to a request with that header; the next one says it. Opaque.",
        ),
        (header::CONSISTENCY, json!({"enum": ["linearizable", "local"]}), "How fresh the answer is."),
        (
            header::TTL,
            json!({"type": "number", "minimum": 0}),
            "After how many seconds the pair goes by itself; left out if it does not.",
        ),
        (header::DELETED, number, "How many keys were removed."),
        (
            header::IDEMPOTENCY_REPLAYED,
            json!({"enum": ["true"]}),
            "This is the answer to an earlier request with the same `Idempotency-Key`; left out otherwise.",
        ),
        (header::LEASE, json!({"type": "string"}), "The lease that the pair hangs on; left out if it hangs on none."),
        (
            header::EPOCH,
            json!({"type": "string"}),
            "Names the keyspace for ever; with a revision behind a dot the id of an event. Where a watch is of one node, it \
             names the node's count of revisions, too, which ends with the process.",
        ),
        (
            header::WATCH_SCOPE,
            json!({"enum": ["node"]}),
            "In an eventual keyspace: what is told, and its revisions, are of the node that answers; left out in others.",
        ),
        (
            header::INDEX,
            json!({"type": "string"}),
            "In an eventual keyspace, if the request has `wait`: what the next one is to name as `index`. Opaque.",
        ),
    ];
    let made = |(name, schema, about): (&str, Value, &str)| (name.to_owned(), json!({"schema": schema, "description": about}));
    told.into_iter().map(made).collect()
}

impl Schemas {
    fn new() -> Self {
        let settings = |settings: SchemaSettings| {
            settings.with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            sent: settings(SchemaSettings::draft2020_12().for_deserialize()).into_generator(),
            answered: settings(SchemaSettings::draft2020_12().for_serialize()).into_generator(),
        }
    }

    /// What the references lead to. Where what is sent and what is answered differ, the types are different ones.
    fn components(mut self) -> Map<String, Value> {
        let mut components = self.answered.take_definitions(true);
        for (name, sent) in self.sent.take_definitions(true) {
            if let Some(answered) = components.get(&name) {
                assert_eq!(&sent, answered, "{name} is sent in another form than it is answered");
            }
            components.insert(name, sent);
        }
        components.values_mut().for_each(clean);
        components["EngineBody"]["properties"]["type"] = engines();
        let modes: Vec<&str> = Mode::ALL.iter().map(|mode| mode.name()).collect();
        components["ReplicationBody"]["properties"]["mode"]["enum"] = json!(modes);
        components.insert("ProblemCode".to_owned(), problem_codes());
        components
    }
}

/// Links that only this program's own documentation can follow become plain names.
fn clean(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(about)) = fields.get_mut("description") {
                *about = about.replace("[`", "`").replace("`]", "`");
            }
            fields.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}

fn engines() -> Value {
    let option = |option: &quorate_engine::OptionSpec| format!("`{}`: {}", option.name, option.help);
    let kind = |kind: &quorate_engine::Kind| {
        let options: Vec<String> = kind.options.iter().map(option).collect();
        json!({"const": kind.name, "description": format!("{}\n\n{}", kind.summary, options.join("\n\n")).trim()})
    };
    let outside = |kind: &quorate_external::Kind| {
        let options: Vec<String> = kind.options.iter().map(|(name, help)| format!("`{name}`: {help}")).collect();
        json!({"const": kind.name, "description": format!("{}\n\n{}", kind.summary, options.join("\n\n")).trim()})
    };
    let all: Vec<Value> = KINDS.iter().map(kind).chain(quorate_external::KINDS.iter().map(outside)).collect();
    json!({"description": "The kind.", "oneOf": all})
}

fn problem_codes() -> Value {
    let told = |code: &Code| {
        let Facts { code, status, is_retryable, title, help } = code.facts();
        json!({"const": code, "title": title, "description": help, "x-status": status, "x-retryable": is_retryable})
    };
    json!({
        "description": "Why a request was refused or failed. The words are stable.",
        "type": "string",
        "oneOf": Code::ALL.iter().map(told).collect::<Vec<_>>(),
    })
}
