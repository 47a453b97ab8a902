//! The one screen of `lb-agent status`, and its part about one service, which is `lb-agent service show`.
//! Where the terminal is narrow, reasons move from their column to lines below the table.

use super::table::{Look, Value, pairs, table};
use super::text;
use super::views::{BACKEND, ON_NARROW_SCREEN, ON_SCREEN, REASON, UNDER_SERVICE, active_flows, backend_rows};
use crate::model::view;

pub(super) fn screen(status: &view::Status, look: Look) -> String {
    let mut parts = vec![header(status, look)];
    parts.extend(status.services.iter().map(|service| {
        let backends = if look.is_narrow() {
            let troubled = service.backends.iter().filter(|backend| backend.state != "up");
            let notes = troubled.map(|backend| (backend, format!("{}: {}", backend.state, backend.reason)));
            backends(service, ON_NARROW_SCREEN, look) + &notes_on(notes, look)
        } else {
            backends(service, ON_SCREEN, look)
        };
        summary(service, look) + &backends
    }));
    if status.services.is_empty() {
        parts.push("no services\n".to_owned());
    }
    if !status.reasons.is_empty() {
        parts.push(format!("not forwarded, by reason\n{}", table(REASON, &[], &status.reasons, look)));
    }
    parts.join("\n")
}

pub(super) fn service(service: &view::Service, look: Look) -> String {
    let traffic = &service.traffic;
    let totals = format!(
        "total  {} packets, {} in; {} packets, {} back; {} flows\n",
        text::count(traffic.packets),
        text::bytes(traffic.bytes),
        text::count(traffic.reply_packets),
        text::bytes(traffic.reply_bytes),
        text::count(traffic.new_flows),
    );
    let backends = if look.is_narrow() {
        let notes =
            service.backends.iter().map(|backend| (backend, format!("{}, {}", backend.address, backend.reason)));
        backends(service, ON_NARROW_SCREEN, look) + &notes_on(notes, look)
    } else {
        backends(service, UNDER_SERVICE, look)
    };
    summary(service, look) + &totals + &backends
}

fn header(status: &view::Status, look: Look) -> String {
    let agent = format!("{}, pid {}, up {}", status.version, status.pid, text::age(status.uptime_seconds));
    let file = status.config_file.as_deref().unwrap_or("from flags");
    let flows = format!(
        "{} of {} entries, {}",
        text::count(status.flow_table.entries),
        text::count(status.flow_table.capacity),
        text::bytes(status.flow_table.memory_bytes),
    );
    let mut rows = vec![
        ("state", Value::State(status.state.clone())),
        ("agent", Value::Text(agent)),
        ("config", Value::Text(format!("generation {}, {file}", status.config_generation))),
        ("flow table", Value::Text(flows)),
    ];
    rows.extend(status.attachments.iter().map(|attachment| {
        let view::Attachment { interface, hook, mode, reason, .. } = attachment;
        ("interface", Value::Text(format!("{interface} {hook}/{mode}: {reason}")))
    }));
    if status.attachments.is_empty() {
        rows.push(("interface", Value::Text("not attached".to_owned())));
    }
    pairs(&rows, look)
}

fn summary(service: &view::Service, look: Look) -> String {
    let traffic = &service.traffic;
    let what =
        format!("{}  {}, {}, tracking {}", service.address, service.forward, service.scheduler, service.tracking);
    let rates = format!(
        "{} flows, {} new/s, {} packets/s",
        text::count(active_flows(service)),
        text::rate(traffic.new_flows_per_second),
        text::rate(traffic.packets_per_second),
    );
    let mut rows = vec![(text::sanitise(&service.name), Value::Text(what)), (String::new(), Value::Text(rates))];
    if service.panic {
        let panic = "panic: too few backends are healthy, so all enabled ones are used";
        rows.push((String::new(), Value::Text(panic.to_owned())));
    }
    pairs(&rows, look)
}

fn backends(service: &view::Service, without: &[&str], look: Look) -> String {
    if service.backends.is_empty() {
        return "no backends\n".to_owned();
    }
    table(BACKEND, without, &backend_rows(std::slice::from_ref(service)), look)
}

/// Lines below a table, each about one of its backends.
fn notes_on<'a>(notes: impl Iterator<Item = (&'a view::Backend, String)>, look: Look) -> String {
    let notes: Vec<_> =
        notes.map(|(backend, note)| (format!("  {}", text::sanitise(&backend.name)), Value::Text(note))).collect();
    if notes.is_empty() { String::new() } else { pairs(&notes, look) }
}
