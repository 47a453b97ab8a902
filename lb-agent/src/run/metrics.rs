//! The metrics in Prometheus' text format, made from the maps and the engine when they are asked for.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::agent::Agent;
use crate::engine::ServiceStatus;
use crate::model::latency::Histogram;
use lb_common::counters::BackendCounters;
use lb_common::latency::Kind;
use lb_common::reason::Outcome;

/// A bounded set of labels: names come from the configuration, values from what is configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

type Counts = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;

pub(super) fn text(agent: &Agent) -> String {
    let mut registry = Registry::with_prefix("lb");
    traffic(agent, &mut registry);
    states(agent, &mut registry);
    data_plane(agent, &mut registry);
    let mut out = String::new();
    match text::encode(&mut out, &registry) {
        Ok(()) => out,
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            String::new()
        }
    }
}

fn traffic(agent: &Agent, registry: &mut Registry) {
    let (packets, bytes, new_flows, resets) =
        (Counts::default(), Counts::default(), Counts::default(), Counts::default());
    let evictions = Counts::default();
    for (labels, id, _) in backends(&agent.services()) {
        let counters: BackendCounters = agent.meter.counters(id);
        for (direction, number, size) in
            [("request", counters.packets, counters.bytes), ("reply", counters.reply_packets, counters.reply_bytes)]
        {
            let labels = with(&labels, "direction", direction);
            packets.get_or_create(&labels).inc_by(number);
            bytes.get_or_create(&labels).inc_by(size);
        }
        new_flows.get_or_create(&labels).inc_by(counters.new_flows);
        resets.get_or_create(&labels).inc_by(counters.resets);
        for (state, count) in [("half-open", counters.evicted_half_open), ("stale", counters.evicted_stale)] {
            evictions.get_or_create(&Labels(vec![("state", state.into())])).inc_by(count);
        }
    }
    registry.register("packets", "Packets forwarded", packets);
    registry.register("bytes", "Bytes of the frames forwarded", bytes);
    registry.register("new_flows", "Flows given to a backend", new_flows);
    registry.register("backend_resets", "Resets that backends sent", resets);
    latencies(agent, registry);
    registry.register("flow_evictions", "Flow entries that made room for others", evictions);
}

/// What the programs have measured of sampled flows, by backend and kind.
#[derive(Debug)]
struct Latencies(Vec<(Labels, Histogram)>);

impl Collector for Latencies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (name, help) = ("backend_latency", "From a client's packet to the backend's answer, of sampled flows");
        let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, histogram) in &self.0 {
            let buckets = histogram.doublings();
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_family(labels)?.encode_histogram::<Labels>(histogram.sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

fn latencies(agent: &Agent, registry: &mut Registry) {
    let mut found = Vec::new();
    let unanswered = Counts::default();
    for (labels, id, _) in backends(&agent.services()) {
        for kind in Kind::ALL {
            let total = agent.latencies.total(id, kind).cloned().unwrap_or_default();
            found.push((with(&labels, "kind", kind.name()), total));
        }
        unanswered.get_or_create(&labels).inc_by(agent.latencies.unanswered_by(id));
    }
    registry.register_collector(Box::new(Latencies(found)));
    registry.register("backend_unanswered_handshakes", "Handshakes of sampled flows without an answer", unanswered);
}

fn states(agent: &Agent, registry: &mut Registry) {
    let (active, weight, healthy) = (Gauges::default(), Gauges::default(), Gauges::default());
    let lent = Gauges::default();
    let (transitions, moved) = (Counts::default(), Counts::default());
    let services = agent.services();
    for (labels, id, backend) in backends(&services) {
        if let Some(ports) = agent.lent_ports.get(&id) {
            lent.get_or_create(&labels).set((*ports).try_into().unwrap_or(i64::MAX));
        }
        active.get_or_create(&labels).set(backend.active_flows.try_into().unwrap_or(i64::MAX));
        weight.get_or_create(&labels).set(backend.weight.into());
        healthy.get_or_create(&labels).set((backend.state == "up").into());
    }
    for (key, count) in &agent.applied.transitions {
        let labels = Labels(vec![("service", key.service.clone()), ("backend", key.backend.clone())]);
        transitions.get_or_create(&labels).inc_by(*count);
    }
    for service in &services {
        let count = agent.applied.slots_moved.get(&service.id.get()).copied().unwrap_or(0);
        moved.get_or_create(&Labels(vec![("service", service.view.name.clone())])).inc_by(count);
    }
    registry.register("active_flows", "Flows that are not closing", active);
    registry.register("snat_ports", "Source ports that are lent", lent);
    registry.register("backend_weight", "Weight in force", weight);
    registry.register("backend_healthy", "1 while the backend takes new flows", healthy);
    registry.register("backend_transitions", "Changes of a backend's state", transitions);
    registry.register("slots_moved", "Slots that changed hands", moved);
}

fn data_plane(agent: &Agent, registry: &mut Registry) {
    let (drops, passed) = (Counts::default(), Counts::default());
    for (reason, packets) in agent.kernel.reasons().unwrap_or_default() {
        let family = match reason.outcome() {
            Outcome::Drop => &drops,
            Outcome::Pass => &passed,
        };
        family.get_or_create(&Labels(vec![("reason", reason.name().into())])).inc_by(packets);
    }
    registry.register("drops", "Packets of ours that were dropped", drops);
    registry.register("passed", "Packets of ours that went to the kernel's stack", passed);
    let attached = Gauges::default();
    for attachment in agent.attachments.values() {
        let labels = [
            ("interface", attachment.interface.clone()),
            ("hook", attachment.hook.clone()),
            ("mode", attachment.mode.clone()),
        ];
        attached.get_or_create(&Labels(labels.into())).set(1);
    }
    registry.register("attach_info", "Where and how the program is attached", attached);
    let gauge = |value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value.try_into().unwrap_or(i64::MAX));
        gauge
    };
    registry.register("flow_table_entries", "Entries in use", gauge(agent.flow_entries));
    registry.register("flow_table_capacity", "Entries that fit", gauge(agent.kernel.flow_entries().into()));
    registry.register("config_generation", "Configurations applied, this one among them", gauge(agent.generation));
}

fn backends(services: &[ServiceStatus]) -> impl Iterator<Item = (Labels, u16, &crate::model::view::Backend)> {
    services.iter().flat_map(|service| {
        service.view.backends.iter().zip(&service.backend_ids).map(|(backend, id)| {
            let labels = vec![("service", service.view.name.clone()), ("backend", backend.name.clone())];
            (Labels(labels), id.get(), backend)
        })
    })
}

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.0.push((name, value.to_owned()));
    labels
}
