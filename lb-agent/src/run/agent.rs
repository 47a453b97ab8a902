//! The task that owns the data plane and the engine. Everything reaches it as a message; it decides nothing itself, but
//! carries out what the engine says ([`super::apply`]) and answers questions ([`super::views`]).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_common::latency::Kind;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::apply::Applied;
use super::interfaces::Fit;
use super::latency::{Latencies, sampling};
use super::requests::Request;
use super::saved::Store;
use super::traffic::Meter;
use super::{RunError, Source, interfaces, systemd};
use crate::dataplane::kernel::{Events, Hook, Kernel, KernelError};
use crate::engine::{BackendId, Engine, Event, ServiceId};
use crate::health::{ProbeReport, Prober};
use crate::model::config::{self, Config};
use crate::model::hook::{Choice, after_refusal};
use crate::model::view;
use crate::os::host;
use crate::os::links::LinkEvent;
use crate::os::neighbours::{NeighbourEvent, Neighbours};

/// How often flows are counted, counters read and the engine told the time.
const TICK: Duration = Duration::from_secs(1);
/// A SYN without an answer is sent again after a second (RFC 6298); who has not answered the third one will not, nanoseconds.
const UNANSWERED: u64 = 3_000_000_000;
/// How long a data plane of another layout goes on while this one learns which backends work.
const SUCCESSION_LIMIT: Duration = Duration::from_secs(10);

/// What the agent's task owns from the start.
pub(super) struct Parts {
    pub(super) kernel: Kernel,
    pub(super) engine: Engine,
    pub(super) prober: Prober,
    pub(super) neighbours: Neighbours,
    pub(super) store: Store,
    pub(super) servers: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Where its messages come from.
pub(super) struct Inputs {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) reports: mpsc::Receiver<ProbeReport>,
    pub(super) neighbours: mpsc::Receiver<NeighbourEvent>,
    pub(super) links: mpsc::Receiver<LinkEvent>,
    pub(super) missing: Events,
}

pub(super) struct Agent {
    pub(super) kernel: Kernel,
    pub(super) engine: Engine,
    pub(super) prober: Prober,
    pub(super) neighbours: Neighbours,
    pub(super) store: Store,
    servers: TaskTracker,
    stop: CancellationToken,
    inputs: Option<Inputs>,
    pub(super) config: Config,
    pub(super) source: Source,
    pub(super) generation: u64,
    pub(super) started: Instant,
    pub(super) applied: Applied,
    pub(super) meter: Meter,
    pub(super) latencies: Latencies,
    pub(super) flow_entries: u64,
    /// By backend number, where it has a pool of them.
    pub(super) lent_ports: BTreeMap<u16, u64>,
    /// By interface name.
    pub(super) attachments: BTreeMap<String, view::Attachment>,
    /// Where to attach, while a data plane of another layout still has the packets.
    waiting: Option<Vec<Fit>>,
}

impl Agent {
    pub(super) fn new(parts: Parts, inputs: Inputs, config: Config, source: Source) -> Self {
        let Parts { kernel, engine, prober, neighbours, store, servers, stop } = parts;
        let applied = Applied::adopting(&kernel);
        Self {
            kernel,
            engine,
            prober,
            neighbours,
            store,
            servers,
            stop,
            inputs: Some(inputs),
            config,
            source,
            generation: 1,
            started: Instant::now(),
            applied,
            meter: Meter::default(),
            latencies: Latencies::default(),
            flow_entries: 0,
            lent_ports: BTreeMap::new(),
            attachments: BTreeMap::new(),
            waiting: None,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Fills the maps, then attaches: from the first packet on everything is in place. Where packets already go by a data plane of
    /// another layout, it waits until the backends are known ([`Self::succeed`]).
    pub(super) fn bring_up(&mut self, fits: Vec<Fit>) -> Result<(), RunError> {
        let effects = self.engine.handle(self.now(), Event::Configured(self.config.clone()));
        if let Some(reason) = super::apply::rejection(&effects) {
            return Err(RunError::Unfit(reason));
        }
        self.apply_all(effects)?;
        if self.kernel.follows_another() {
            tracing::info!("a data plane of another layout is in place; it goes on until the backends are known");
            self.waiting = Some(fits);
            return Ok(());
        }
        self.attach_all(fits)
    }

    /// Takes the interfaces from a data plane of another layout, if all is known that it knows.
    fn succeed(&mut self) -> Result<(), RunError> {
        let due = self.engine.is_settled() || self.now() > SUCCESSION_LIMIT;
        let Some(fits) = self.waiting.take_if(|_| due) else { return Ok(()) };
        self.attach_all(fits)?;
        self.kernel.remove_others()?;
        tracing::info!("took the place of the data plane of another layout");
        Ok(())
    }

    fn attach_all(&mut self, fits: Vec<Fit>) -> Result<(), RunError> {
        let attached_before = self.kernel.attached()?;
        let attached = fits.into_iter().map(|fit| self.attach(fit)).collect::<Result<Vec<_>, _>>();
        // If one fails, those that this start has attached go again; those of an earlier agent stay.
        let kept = attached.as_ref().unwrap_or(&attached_before);
        // Otherwise those that an earlier agent has attached elsewhere: packets were never without a program.
        let unwanted: Vec<_> = self.kernel.attached()?.into_iter().filter(|place| !kept.contains(place)).collect();
        for (hook, ifindex) in unwanted {
            self.kernel.detach(hook, ifindex)?;
        }
        attached?;
        let effects = self.engine.handle(self.now(), Event::Attached);
        self.apply_all(effects)?;
        Ok(())
    }

    /// Gives the hook and the interface's number.
    pub(super) fn attach(&mut self, fit: Fit) -> Result<(Hook, u32), RunError> {
        let Fit { link, mut choice } = fit;
        let xdp = link.xdp.as_ref().map(|xdp| xdp.program_id);
        let mut attached = self.kernel.attach(&link.name, link.index, choice.place, xdp);
        if let Err(KernelError::NoNativeXdp { reason, .. }) = &attached
            && self.config.hook == config::Hook::Auto
        {
            choice = after_refusal(reason);
            attached = self.kernel.attach(&link.name, link.index, choice.place, xdp);
        }
        let taken_over = attached?.taken_over;
        let Choice { place, reason } = choice;
        let (interface, hook, mode) = (link.name, place.hook(), place.mode());
        tracing::info!(interface, hook, mode, taken_over, "attached: {reason}");
        let attachment = view::Attachment {
            interface: interface.clone(),
            hook: hook.into(),
            mode: mode.into(),
            program_id: self.kernel.program_id(Hook::of(place))?,
            reason,
        };
        self.attachments.insert(interface, attachment);
        Ok((Hook::of(place), link.index))
    }

    /// Until a signal ends it. The data plane goes on without an agent.
    pub(super) async fn serve(mut self) -> Result<(), RunError> {
        let Some(inputs) = self.inputs.take() else { return Ok(()) };
        // SAFETY: the events own their descriptor and always give the same one.
        let missing = unsafe { AsyncFd::register(inputs.missing) };
        let missing = missing.map_err(|error| RunError::io("listen to the data plane")(error.into()))?;
        let mut loops = Loop {
            requests: inputs.requests,
            reports: inputs.reports,
            neighbours: inputs.neighbours,
            links: inputs.links,
            missing,
            tick: every(TICK),
            watchdog: systemd::watchdog_interval().map(every),
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        };
        systemd::ready(&format!("{} services", self.config.services.len()));
        tracing::info!(socket = %self.config.api.socket.display(), "ready");
        let result = loops.turn(&mut self).await;
        self.end().await;
        result
    }

    async fn end(mut self) {
        systemd::stopping();
        let effects = self.engine.handle(self.now(), Event::Stop);
        if let Err(error) = self.apply_all(effects) {
            tracing::warn!(%error, "stopping");
        }
        self.stop.cancel();
        // Requests that were under way are answered; those that need this task find it gone.
        self.servers.wait().await;
        self.prober.stop().await;
        let _logged_only = self.engine.handle(self.started.elapsed(), Event::Stopped);
        tracing::info!("stopped; packets go on, `lb-agent unload` removes the data plane");
    }

    fn tick(&mut self) -> Result<(), RunError> {
        let now = self.now();
        let applied = &self.applied;
        let sweep = self.kernel.sweep(|backend| applied.is_udp(backend), &[])?;
        self.flow_entries = sweep.entries;
        self.kernel.number_client_hops()?;
        self.lent_ports = self.kernel.lent_ports()?;
        for backend in self.applied.backends() {
            self.meter.read(now, backend, self.kernel.counters(backend)?);
            self.measure(backend);
        }
        let unanswered = self.kernel.unanswered(host::monotonic_nanoseconds(), UNANSWERED);
        unanswered.into_iter().for_each(|backend| self.latencies.unanswered(backend));
        let counts = sweep.active.into_iter().filter_map(|(id, count)| Some((BackendId::new(id)?, count))).collect();
        let foreign = sweep.foreign.into_iter().filter_map(|(id, slots)| Some((ServiceId::new(id)?, slots))).collect();
        let effects = self.engine.handle(now, Event::FlowCounts(counts));
        self.apply_all(effects)?;
        let effects = self.engine.handle(now, Event::ForeignFlows(foreign));
        self.apply_all(effects)?;
        let effects = self.engine.handle(now, Event::Tick);
        self.apply_all(effects)?;
        self.succeed()
    }

    fn measure(&mut self, backend: u16) {
        for kind in Kind::ALL {
            if let Some(reading) = self.kernel.latencies(backend, kind) {
                self.latencies.read(backend, kind, reading);
            }
        }
        let shift = sampling(self.meter.traffic(backend).packets_per_second);
        self.kernel.tables_mut().set_sampling(backend, shift);
    }

    /// An interface of ours that is made again gets its program again.
    async fn link_changed(&mut self, event: &LinkEvent) {
        match event {
            LinkEvent::Created(link) if self.config.interfaces.contains(&link.name) => {
                tracing::warn!(interface = %link.name, "the interface is back");
                if let Err(error) = self.attach_again(&link.name).await {
                    tracing::error!(interface = %link.name, %error, "cannot attach to the interface");
                }
            }
            LinkEvent::Deleted { index, name } if self.attachments.remove(name).is_some() => {
                tracing::error!(interface = %name, "the interface is gone; its traffic is not balanced until it is back");
                if let Err(error) = self.kernel.detach_everywhere(*index) {
                    tracing::error!(interface = %name, %error, "cannot remove its pin");
                }
            }
            _ => {}
        }
    }

    async fn attach_again(&mut self, interface: &str) -> Result<(), RunError> {
        match interfaces::examine_again(&self.config, interface).await? {
            Some(fit) => self.attach(fit).map(drop),
            // Gone again: that will be heard, too.
            None => Ok(()),
        }
    }
}

/// What the task waits for.
struct Loop {
    requests: mpsc::Receiver<Request>,
    reports: mpsc::Receiver<ProbeReport>,
    neighbours: mpsc::Receiver<NeighbourEvent>,
    links: mpsc::Receiver<LinkEvent>,
    missing: AsyncFd<Events>,
    tick: Interval,
    watchdog: Option<Interval>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Loop {
    async fn turn(&mut self, agent: &mut Agent) -> Result<(), RunError> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Ok(()),
                _ = self.interrupt.recv() => return Ok(()),
                _ = self.hangup.recv() => agent.reload_on_signal().await,
                Some(request) = self.requests.recv() => agent.answer(request).await,
                report = self.reports.recv() => {
                    let report = report.ok_or_else(|| RunError::Ended("the health checks"))?;
                    agent.event(Event::Probe { key: report.key, outcome: report.outcome })?;
                }
                heard = self.neighbours.recv() => {
                    let heard = heard.ok_or_else(|| RunError::Ended("the watch over neighbours"))?;
                    agent.event(Event::NextHop { address: heard.address, resolution: heard.resolution })?;
                }
                Some(event) = self.links.recv() => agent.link_changed(&event).await,
                ready = self.missing.readable_mut() => {
                    let mut guard = ready.map_err(RunError::io("listen to the data plane"))?;
                    solicit(guard.get_inner_mut(), &agent.neighbours);
                    guard.clear_ready();
                }
                _ = self.tick.tick() => agent.tick()?,
                () = due(&mut self.watchdog) => systemd::alive(),
            }
        }
    }
}

/// Has the kernel resolve the clients that the program had no neighbour for.
fn solicit(events: &mut Events, neighbours: &Neighbours) {
    while let Some(missing) = events.next_missing() {
        neighbours.solicit(missing.address);
    }
}

async fn due(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    // After a stall one tick is enough.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn listen(kind: SignalKind) -> Result<Signal, RunError> {
    signal(kind).map_err(RunError::io("listen for signals"))
}
