//! The connections for commands: one to a server, or one to each master of a cluster.

use crate::{
    model::error::Result,
    store::redis::transport::{
        cluster::Cluster,
        errors,
        link::{Link, NoScript, Repeat},
    },
};
use redis::{Cmd, Pipeline, Value};
use std::sync::Arc;

pub enum Commands {
    One(Arc<Link>),
    Cluster(Arc<Cluster>),
}

impl Commands {
    /// Sends one command.
    pub async fn command(&self, command: &Cmd, repeat: Repeat) -> Result<Value> {
        match self {
            Commands::One(link) => link.command(command, repeat).await,
            Commands::Cluster(cluster) => one(cluster, command, repeat)
                .await?
                .extract_error()
                .map_err(|error| errors::request(&error)),
        }
    }

    /// Like [`Commands::command`], for script calls. The inner error means that the server does not
    /// know the script, so nothing ran.
    pub async fn call(&self, command: &Cmd, repeat: Repeat) -> Result<Result<Value, NoScript>> {
        match self {
            Commands::One(link) => link.call(command, repeat).await,
            Commands::Cluster(cluster) => {
                match one(cluster, command, repeat).await?.extract_error() {
                    Ok(value) => Ok(Ok(value)),
                    Err(error) if errors::is_no_script(&error) => Ok(Err(NoScript)),
                    Err(error) => Err(errors::request(&error)),
                }
            }
        }
    }

    /// Sends commands together. Each has its own answer, which may be an error of the server.
    pub async fn pipeline(&self, pipeline: &Pipeline, repeat: Repeat) -> Result<Vec<Value>> {
        match self {
            Commands::One(link) => link.pipeline(pipeline, repeat).await,
            Commands::Cluster(_) => {
                let outcomes = self.pipeline_each(pipeline, repeat).await;
                outcomes.into_iter().collect()
            }
        }
    }

    /// The same, with a separate outcome for each command. On a cluster, some may fail while others
    /// do not.
    pub async fn pipeline_each(&self, pipeline: &Pipeline, repeat: Repeat) -> Vec<Result<Value>> {
        match self {
            Commands::One(link) => link.pipeline_each(pipeline, repeat).await,
            Commands::Cluster(cluster) => {
                let commands: Vec<Cmd> = pipeline.cmd_iter().cloned().collect();
                cluster.send(&commands, repeat).await
            }
        }
    }

    /// The same, for commands that are not in a pipeline.
    pub async fn each(&self, commands: &[Cmd], repeat: Repeat) -> Vec<Result<Value>> {
        match self {
            Commands::One(link) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                link.pipeline_each(&pipeline, repeat).await
            }
            Commands::Cluster(cluster) => cluster.send(commands, repeat).await,
        }
    }

    /// The link to each server that has keys.
    pub fn servers(&self) -> Vec<Arc<Link>> {
        match self {
            Commands::One(link) => vec![link.clone()],
            Commands::Cluster(cluster) => cluster.masters(),
        }
    }

    /// Grows with every failover of a cluster, and when slots move. 0 without a cluster.
    pub fn config_epoch(&self) -> u64 {
        match self {
            Commands::One(_) => 0,
            Commands::Cluster(cluster) => cluster.map().borrow().epoch,
        }
    }

    /// The number of connections made so far; 0 on a cluster, where it is not used.
    pub fn connections(&self) -> u64 {
        match self {
            Commands::One(link) => link.connections(),
            Commands::Cluster(_) => 0,
        }
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, Commands::Cluster(_))
    }

    /// Whether any server is connected.
    pub fn is_live(&self) -> bool {
        self.servers().iter().any(|link| link.is_live())
    }

    pub fn close(&self) {
        match self {
            Commands::One(link) => link.close(),
            Commands::Cluster(cluster) => cluster.close(),
        }
    }
}

async fn one(cluster: &Cluster, command: &Cmd, repeat: Repeat) -> Result<Value> {
    let mut outcomes = cluster.send(std::slice::from_ref(command), repeat).await;
    outcomes.swap_remove(0)
}
