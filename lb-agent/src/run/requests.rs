//! Questions and orders that reach the agent's task from the API, each with the place for its answer.

use tokio::sync::oneshot;

use crate::api::{ControlError, FlowFilter, RouteQuery};
use crate::model::admin::Action;
use crate::model::pool::BackendKey;
use crate::model::view;

pub(super) type Answer<T> = oneshot::Sender<T>;

#[derive(Debug)]
pub(super) enum Request {
    Status(Answer<view::Status>),
    Admin(BackendKey, Action, Answer<Result<view::Backend, ControlError>>),
    Flows(FlowFilter, Answer<Result<Vec<view::Flow>, ControlError>>),
    Route(RouteQuery, Answer<Result<view::Route, ControlError>>),
    Reload(Answer<Result<view::ReloadSummary, ControlError>>),
    Metrics(Answer<String>),
}
