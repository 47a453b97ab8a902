//! The commands that talk to the running agent: which resource each asks for, and how its answer is shown.

use serde::Serialize;

use super::args::{
    BackendCommand, FlowCommand, Format, JsonArgs, OutputArgs, Scope, ServiceCommand, TargetArgs, UndoArgs,
};
use super::client::{Client, encode};
use super::exit::CliError;
use super::status;
use super::table::{Column, Look, csv, table};
use super::text;
use super::views::{
    BACKEND, BackendRow, FLOW, FLOW_COUNT, NARROW_BACKENDS, NARROW_SERVICES, ROUTE, SERVICE, backend_rows,
};
use crate::model::admin::Action;
use crate::model::view;

/// What a command prints.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) out: String,
    /// For stderr, where it does not disturb who reads the output.
    pub(super) note: Option<String>,
}

impl From<String> for Shown {
    fn from(out: String) -> Self {
        Self { out, note: None }
    }
}

type Outcome = Result<Shown, CliError>;

pub(super) async fn status(client: &Client, output: OutputArgs, look: Look) -> Outcome {
    let status: view::Status = client.get("/api/v1/status").await?;
    match output.format() {
        Format::Table => Ok(status::screen(&status, look).into()),
        Format::Json => json(&status),
        Format::Csv => Ok(csv(BACKEND, &backend_rows(&status.services)).into()),
    }
}

pub(super) async fn service(client: &Client, command: ServiceCommand, look: Look) -> Outcome {
    match command {
        ServiceCommand::List(output) => {
            let services: Vec<view::Service> = client.get("/api/v1/services").await?;
            let without = if look.is_narrow() { NARROW_SERVICES } else { &[] };
            list(SERVICE, without, &services, &services, "no services", output, look)
        }
        ServiceCommand::Show { service, output } => {
            let service = get_service(client, &service).await?;
            match output.format() {
                Format::Table => Ok(status::service(&service, look).into()),
                Format::Json => json(&service),
                Format::Csv => Ok(csv(BACKEND, &backend_rows(&[service])).into()),
            }
        }
    }
}

async fn get_service(client: &Client, name: &str) -> Result<view::Service, CliError> {
    client.get(&format!("/api/v1/services/{}", encode(name))).await
}

pub(super) async fn backend(client: &Client, command: BackendCommand, look: Look) -> Outcome {
    let undo_after = |undo: UndoArgs| undo.undo_after.map(|time| time.0);
    match command {
        BackendCommand::List { service, output } => {
            let services = match service {
                Some(name) => vec![get_service(client, &name).await?],
                None => client.get("/api/v1/services").await?,
            };
            let rows = backend_rows(&services);
            let without = if look.is_narrow() { NARROW_BACKENDS } else { &[] };
            list(BACKEND, without, &rows, &backends_json(&rows), "no backends", output, look)
        }
        BackendCommand::Drain { target, undo } => {
            act(client, target, Action::Drain { undo_after: undo_after(undo) }).await
        }
        BackendCommand::Undrain { target } => act(client, target, Action::Undrain).await,
        BackendCommand::Weight { target, weight, undo } => {
            act(client, target, Action::Weight { weight, undo_after: undo_after(undo) }).await
        }
        BackendCommand::Enable { target } => act(client, target, Action::Enable).await,
        BackendCommand::Disable { target, undo } => {
            act(client, target, Action::Disable { undo_after: undo_after(undo) }).await
        }
    }
}

/// A backend as the API has it, with the name of its service: a list may hold those of several.
#[derive(Serialize)]
struct NamedBackend<'a> {
    service: &'a str,
    #[serde(flatten)]
    backend: &'a view::Backend,
}

fn backends_json(rows: &[BackendRow]) -> Vec<NamedBackend<'_>> {
    rows.iter().map(|row| NamedBackend { service: &row.service, backend: &row.backend }).collect()
}

async fn act(client: &Client, target: TargetArgs, action: Action) -> Outcome {
    let TargetArgs { backend: key, output } = target;
    let (service, backend) = (encode(&key.service), encode(&key.backend));
    let path = format!("/api/v1/services/{service}/backends/{backend}/{}", action.verb());
    let request = action.request();
    let backend: view::Backend = client.post(&path, &request).await?;
    if output.json {
        return json(&backend);
    }
    let undo = request.undo_after.map(|time| format!("; undone in {time}")).unwrap_or_default();
    let name = text::sanitise(&key.to_string());
    let (state, reason) = (text::sanitise(&backend.state), text::sanitise(&backend.reason));
    let flows = text::count(backend.active_flows);
    Ok(format!("{name}: {state} ({reason}), weight {}, {flows} active flows{undo}\n", backend.weight).into())
}

pub(super) async fn flow(client: &Client, command: FlowCommand, look: Look) -> Outcome {
    match command {
        FlowCommand::List { of, limit, output } => {
            let mut target = format!("/api/v1/flows?limit={limit}");
            if let Some(Scope { service, backend }) = of {
                target.push_str(&format!("&service={}", encode(&service)));
                if let Some(backend) = backend {
                    target.push_str(&format!("&backend={}", encode(&backend)));
                }
            }
            let flows: Vec<view::Flow> = client.get(&target).await?;
            let mut shown = list(FLOW, &[], &flows, &flows, "no tracked flows", output, look)?;
            if flows.len() >= limit {
                shown.note = Some(format!("the first {limit} flows; there may be more, see --limit and `flow count`"));
            }
            Ok(shown)
        }
        FlowCommand::Count(output) => {
            let counts: Vec<view::FlowCount> = client.get("/api/v1/flows/count").await?;
            list(FLOW_COUNT, &[], &counts, &counts, "no backends", output, look)
        }
        FlowCommand::Route { source, destination, output } => {
            if source.is_ipv4() != destination.address.is_ipv4() {
                return Err(CliError::Usage("client and destination must both be IPv4 or both IPv6".to_owned()));
            }
            let (from, to) = (encode(&source.to_string()), encode(&destination.address.to_string()));
            let protocol = destination.protocol;
            let target = format!("/api/v1/flows/route?protocol={protocol}&source={from}&destination={to}");
            let route: view::Route = client.get(&target).await?;
            list(ROUTE, &[], std::slice::from_ref(&route), &route, "no route", output, look)
        }
    }
}

pub(super) async fn reload(client: &Client, args: JsonArgs) -> Outcome {
    let summary: view::ReloadSummary = client.post("/api/v1/config/reload", &serde_json::json!({})).await?;
    if args.json {
        return json(&summary);
    }
    let mut out = format!("generation {} is in force\n", summary.config_generation);
    let changes = [("added", &summary.added), ("changed", &summary.changed), ("removed", &summary.removed)];
    for (what, services) in changes.into_iter().filter(|(_, services)| !services.is_empty()) {
        out.push_str(&format!("{what}: {}\n", text::sanitise(&services.join(", "))));
    }
    if changes.iter().all(|(_, services)| services.is_empty()) {
        out.push_str("no service changed\n");
    }
    Ok(out.into())
}

fn list<R>(
    columns: &[Column<R>],
    without: &[&str],
    rows: &[R],
    as_json: &impl Serialize,
    nothing: &str,
    output: OutputArgs,
    look: Look,
) -> Outcome {
    match output.format() {
        Format::Table if rows.is_empty() => Ok(format!("{nothing}\n").into()),
        Format::Table => Ok(table(columns, without, rows, look).into()),
        Format::Json => json(as_json),
        Format::Csv => Ok(csv(columns, rows).into()),
    }
}

fn json(value: &impl Serialize) -> Outcome {
    match serde_json::to_string_pretty(value) {
        Ok(json) => Ok((text::sanitise_json(&json) + "\n").into()),
        Err(error) => Err(CliError::Failed(format!("could not write the answer as JSON: {error}"))),
    }
}
