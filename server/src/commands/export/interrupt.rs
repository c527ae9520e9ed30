//! Work that runs other programs, ended by the signals of the terminal.

use crate::commands::start;
use crate::shutdown::Signals;
use anyhow::Context;
use koma_neuron_export::Stop;
use tokio::sync::oneshot;

/// Runs `work` in a thread; SIGINT, SIGTERM and SIGHUP reach its [`Stop`], so that programs that it runs end and what it began is removed.
///
/// # Errors
/// If the system refuses threads or signals.
pub(super) fn interruptible<T: Send>(work: impl FnOnce(&Stop) -> T + Send) -> anyhow::Result<T> {
    let stop = Stop::default();
    let runtime = start::runtime()?;
    std::thread::scope(|scope| {
        let (ends, ended) = oneshot::channel();
        let stop = &stop;
        // If nobody listens, the signals could not be listened to, and this is an error already.
        scope.spawn(move || drop(ends.send(work(stop))));
        runtime.block_on(async {
            let mut signals = Signals::listen().context("signals")?;
            let mut ended = ended;
            let done = tokio::select! {
                done = &mut ended => done,
                _ = signals.next() => {
                    stop.stop();
                    ended.await
                }
            };
            done.context("the work ended without a result")
        })
    })
}
