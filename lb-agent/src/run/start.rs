//! The beginning of an agent's life: what is checked, opened and joined, in an order in which every failure leaves things
//! as they were.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::{Agent, Inputs, Parts};
use super::control::Handle;
use super::interfaces::Fit;
use super::mode::Settings;
use super::saved::Store;
use super::{RunError, Source, interfaces};
use crate::api::{self, AdminSocket, Limits};
use crate::dataplane::kernel::{self, Kernel, Sizes};
use crate::engine::{Adopted, AdoptedBackend, AdoptedService, BackendId, Engine, ServiceId};
use crate::health::Prober;
use crate::model::config::{Config, Tracking};
use crate::os::host;
use crate::os::links;
use crate::os::neighbours::Neighbours;
use crate::slots::Seed;

/// Events that may wait for the agent's task before their senders have to.
const QUEUE: usize = 1024;

pub(super) async fn start(config: Config, source: Source) -> Result<Agent, RunError> {
    // What can be refused without touching anything comes first: the host, the socket, the address to listen on.
    check_host()?;
    let fits = interfaces::examine(&config).await?;
    let socket = AdminSocket::bind(&config.api.socket)?;
    let listener = match config.api.listen {
        Some(address) => {
            Some(TcpListener::bind(address).await.map_err(RunError::io(format!("listen on {address} (api.listen)")))?)
        }
        None => None,
    };
    let backends = config.services.iter().map(|service| service.backends.len()).sum();
    let kernel = Kernel::open(&config.pin_dir, Sizes::new(config.flow_table, backends, config.snat.ports))?;
    let (pin_dir, adopted) = (config.pin_dir.clone(), kernel.adopted());
    let started = join(kernel, socket, listener, config, source, fits).await;
    if started.is_err() && !adopted {
        // Nobody's packets go through what this start has loaded; an earlier agent's data plane stays.
        kernel::undo(&pin_dir)?;
    }
    started
}

/// Everything that is told, asked or served, around the data plane that is in place.
async fn join(
    mut kernel: Kernel,
    socket: AdminSocket,
    listener: Option<TcpListener>,
    config: Config,
    source: Source,
    fits: Vec<Fit>,
) -> Result<Agent, RunError> {
    tracing::info!(
        pins = %config.pin_dir.display(),
        "{}",
        if kernel.adopted() { "took over the data plane that was in place" } else { "loaded the data plane" }
    );

    let adopted = adopted(&mut kernel)?;
    let store = Store::new(&config.state_dir);
    let mut engine = Engine::new(Seed(kernel.slot_seed()), adopted);
    engine.restore(Duration::ZERO, store.load());

    let (requests, requested) = mpsc::channel(QUEUE);
    let (reports, reported) = mpsc::channel(QUEUE);
    let (neighbour_events, neighbours_heard) = mpsc::channel(QUEUE);
    let inputs = Inputs {
        requests: requested,
        reports: reported,
        neighbours: neighbours_heard,
        links: links::watch().await?,
        missing: kernel.events()?,
    };
    let stop = CancellationToken::new();
    let servers = TaskTracker::new();
    let handle = Arc::new(Handle::new(requests));
    servers.spawn(api::serve_unix(
        socket,
        api::router(handle.clone(), &Limits::DEFAULT),
        Limits::DEFAULT,
        stop.clone(),
    ));
    if let Some(listener) = listener {
        let router = api::read_only_router(handle, &Limits::DEFAULT);
        servers.spawn(api::serve_tcp(listener, router, Limits::DEFAULT, stop.clone()));
    }
    servers.close();

    let parts = Parts {
        kernel,
        engine,
        prober: Prober::spawn(reports).map_err(RunError::io("start the health checks"))?,
        neighbours: Neighbours::spawn(neighbour_events)?,
        store,
        servers,
        stop,
    };
    let mut agent = Agent::new(parts, inputs, config, source);
    agent.bring_up(fits)?;
    Ok(agent)
}

/// Rights and kernel: whoever lacks them learns it from one sentence, not from the first system call that fails.
fn check_host() -> Result<(), RunError> {
    let missing = host::capabilities().map_err(RunError::io("read this process's capabilities"))?.missing();
    if !missing.is_empty() {
        return Err(RunError::MissingRights(missing.join(", ")));
    }
    match host::kernel_version() {
        Some(version) if version < host::OLDEST_KERNEL => Err(RunError::Unfit(format!(
            "this kernel is Linux {version}, and lb needs {} or later; boot a newer one",
            host::OLDEST_KERNEL
        ))),
        _ => Ok(()),
    }
}

/// What an earlier agent left in the maps: numbers that flows hold, slots that remember, and what was known of the backends.
fn adopted(kernel: &mut Kernel) -> Result<Adopted, RunError> {
    let mut services = Vec::new();
    for (address, service) in kernel.tables().services()? {
        let Settings { tracking, forward, scheduler, affinity } = Settings::of(service.mode);
        let slots = match tracking {
            Tracking::Minimal => kernel.tables_mut().slots(service.id, service.slots)?,
            _ => Vec::new(),
        };
        let found = |id| AdoptedService { id, address, forward, tracking, scheduler, affinity, slots };
        services.extend(ServiceId::new(service.id).map(found));
    }
    let backends = kernel.tables().backends().into_iter().filter_map(|(id, known)| {
        Some(AdoptedBackend {
            id: BackendId::new(id)?,
            service: ServiceId::new(known.service())?,
            address: known.address(),
            port: known.port(),
            accepts_new: known.accepts_new(),
            next_hop: kernel.tables().next_hop(id, &known),
        })
    });
    Ok(Adopted { services, backends: backends.collect() })
}
