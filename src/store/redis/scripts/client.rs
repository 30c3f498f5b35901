//! Calls of scripts. If a server does not know a script, the call is repeated with the script's
//! text.

use super::Script;
use crate::{
    failpoints::failpoint,
    model::error::{Error, Result},
    store::redis::transport::{
        commands::Commands,
        errors,
        link::{NoScript, Repeat},
    },
};
use redis::{Cmd, Value};

/// The connections of a store, for calls of scripts and for commands.
pub struct ScriptClient {
    pub commands: Commands,
}

impl ScriptClient {
    pub fn new(commands: Commands) -> Self {
        ScriptClient { commands }
    }

    /// Calls a script. `NOSCRIPT` means that nothing ran, so the second call, with the text, is
    /// always safe.
    pub async fn call(&self, script: &Script, call: &Cmd, repeat: Repeat) -> Result<Value> {
        match self.commands.call(call, repeat).await? {
            Ok(value) => Ok(value),
            Err(NoScript) if failpoint!(NoScript) => Err(Error::internal(
                "the script is not there, and is not to be sent",
            )),
            Err(NoScript) => {
                tracing::debug!(
                    script = script.source.name,
                    "the server has lost the script"
                );
                self.commands.command(&script.with_text(call), repeat).await
            }
        }
    }

    /// Calls one script several times, in one round trip. Each call has its own result.
    pub async fn call_all(
        &self,
        script: &'static Script,
        calls: Vec<Cmd>,
        repeat: Repeat,
    ) -> Vec<Result<Value>> {
        let calls = calls.into_iter().map(|call| (script, call)).collect();
        self.call_each(calls, repeat).await
    }

    /// Calls several scripts in one round trip. Each call has its own result.
    pub async fn call_each(
        &self,
        calls: Vec<(&'static Script, Cmd)>,
        repeat: Repeat,
    ) -> Vec<Result<Value>> {
        if let [(script, call)] = &calls[..] {
            return vec![self.call(script, call, repeat).await];
        }
        let (scripts, calls): (Vec<_>, Vec<Cmd>) = calls.into_iter().unzip();
        let answers = self.commands.each(&calls, repeat).await;
        let mut results = Vec::with_capacity(calls.len());
        for ((script, call), answer) in scripts.iter().zip(&calls).zip(answers) {
            results.push(match answer.map(Value::extract_error) {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) if errors::is_no_script(&error) => {
                    tracing::debug!(
                        script = script.source.name,
                        "the server has lost the script"
                    );
                    self.commands.command(&script.with_text(call), repeat).await
                }
                Ok(Err(error)) => Err(errors::request(&error)),
                Err(error) => Err(error),
            });
        }
        results
    }
}
