//! [`Worker`]: the thread of one core for one model. It owns all that the runtime gave for it.
//!
//! Must not know: which request a row belongs to. Invariant: each job that was taken is given back, with its rows or an error; what
//! the runtime gave is released on the thread that got it, in the order sets, tensors, models.

use super::plan::{BucketPlan, Plan};
use super::weights::Weights;
use super::{Cores, ServingError};
use koma_models::kernels::neuron::{Model, NeuronError, Tensor, TensorSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// One execution. Its memory is used again.
#[derive(Default)]
pub(super) struct Job {
    /// The chunk's number in its batch.
    pub(super) chunk: usize,
    /// The bucket.
    pub(super) bucket: usize,
    /// Values of each integer input, `[inputs][batch * seq]`.
    pub(super) inputs: Vec<Vec<i32>>,
    /// What came out, `[batch * width]`.
    pub(super) rows: Vec<f32>,
}

/// A job that was done, or why not.
pub(super) type Done = (Job, Result<(), NeuronError>);

/// See the module.
pub(super) struct Worker {
    /// None once it is told to end.
    jobs: Option<Sender<(Job, Sender<Done>)>>,
    thread: Option<JoinHandle<()>>,
}

/// A worker that is loading.
pub(super) struct Starting {
    worker: Worker,
    loaded: Receiver<Result<(), ServingError>>,
}

impl Worker {
    /// Starts the thread, which loads every bucket of `plan` onto `core`.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(super) fn start(
        cores: &Arc<Cores>,
        core: u32,
        plan: &Arc<Plan>,
        weights: Option<Arc<Weights>>,
    ) -> Result<Starting, ServingError> {
        let (jobs, received) = channel();
        let (ready, loaded) = channel();
        let (cores, plan) = (Arc::clone(cores), Arc::clone(plan));
        let body = move || match Resident::load(&cores, core, &plan, weights.as_deref()) {
            Ok(mut resident) => {
                // The device has its copy.
                drop(weights);
                let _ = ready.send(Ok(()));
                resident.serve(&cores, core, &received);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("neuron-{core}"))
            .spawn(body)
            .map_err(|error| ServingError::Io {
                what: format!("no thread for core {core}"),
                error,
            })?;
        let worker = Self {
            jobs: Some(jobs),
            thread: Some(thread),
        };
        Ok(Starting { worker, loaded })
    }

    /// Gives the core a job; it comes back through `done`. If the thread has ended, `done` is dropped.
    pub(super) fn give(&self, job: Job, done: Sender<Done>) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((job, done));
        }
    }
}

impl Starting {
    /// Waits until it has loaded.
    ///
    /// # Errors
    /// If it could not.
    pub(super) fn wait(self) -> Result<Worker, ServingError> {
        match self.loaded.recv() {
            Ok(loaded) => loaded.map(|()| self.worker),
            Err(_) => Err(ServingError::Unfit(
                "a thread that loads a core has panicked".to_owned(),
            )),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told to whoever waited for a job.
            let _ = thread.join();
        }
    }
}

/// What a core holds of a model. Dropped in the order of the fields.
struct Resident {
    buckets: Vec<Bound>,
    models: Vec<Model>,
}

/// The tensors of one bucket.
struct Bound {
    inputs: TensorSet,
    outputs: TensorSet,
    values: Vec<Tensors>,
    rows: Rc<Tensor>,
    /// Values that come out.
    len: usize,
}

/// An integer input.
type Tensors = Rc<Tensor>;

impl Resident {
    fn load(
        cores: &Cores,
        core: u32,
        plan: &Plan,
        weights: Option<&Weights>,
    ) -> Result<Self, ServingError> {
        let mut resident = Self {
            buckets: Vec::new(),
            models: Vec::new(),
        };
        let kinds = weights.map_or(&[][..], |weights| &weights.kinds);
        for bucket in &plan.buckets {
            let neff = std::fs::read(&bucket.neff).map_err(|error| ServingError::Io {
                what: bucket.neff.display().to_string(),
                error,
            })?;
            let failed = || ServingError::device(format!("{}: core {core}", bucket.neff.display()));
            let model = Model::load(cores.runtime(), core, &neff).map_err(failed())?;
            // Not every version of the runtime tells.
            if let Some(tensors) = model.tensors().map_err(failed())? {
                plan.check_tensors(bucket, kinds, &tensors)?;
            }
            resident.models.push(model);
        }
        let shared = shared(cores, core, weights)?;
        for bucket in &plan.buckets {
            let bound = Bound::new(cores, core, (bucket, plan.width), &shared);
            let failed = ServingError::device(format!("tensors of core {core}"));
            resident.buckets.push(bound.map_err(failed)?);
        }
        Ok(resident)
    }

    /// Until nobody can give jobs any more.
    fn serve(&mut self, cores: &Cores, core: u32, jobs: &Receiver<(Job, Sender<Done>)>) {
        for (mut job, done) in jobs {
            let result = self.run(cores, core, &mut job);
            // Whoever waited may have given up.
            let _ = done.send((job, result));
        }
    }

    fn run(&mut self, cores: &Cores, core: u32, job: &mut Job) -> Result<(), NeuronError> {
        let Job {
            bucket,
            inputs,
            rows,
            ..
        } = job;
        let (bound, model) = (&mut self.buckets[*bucket], &self.models[*bucket]);
        for (tensor, values) in bound.values.iter().zip(inputs) {
            tensor.write_i32(values)?;
        }
        let taken = cores.take(core);
        model.execute(&bound.inputs, &mut bound.outputs)?;
        drop(taken);
        rows.resize(bound.len, 0.0);
        bound.rows.read_f32(rows)
    }
}

/// The weights on the core's device: one copy for all buckets.
fn shared(
    cores: &Cores,
    core: u32,
    weights: Option<&Weights>,
) -> Result<Vec<Rc<Tensor>>, ServingError> {
    let Some(weights) = weights else {
        return Ok(Vec::new());
    };
    weights.each_bytes(|_, name, bytes| {
        let put = || {
            let tensor = Tensor::allocate(cores.runtime(), core, bytes.len(), name)?;
            tensor.write(bytes)?;
            Ok(Rc::new(tensor))
        };
        put().map_err(ServingError::device(format!(
            "weight `{name}` on core {core}"
        )))
    })
}

impl Bound {
    fn new(
        cores: &Cores,
        core: u32,
        (bucket, width): (&BucketPlan, usize),
        weights: &[Rc<Tensor>],
    ) -> Result<Self, NeuronError> {
        let runtime = cores.runtime();
        let tensor = |len: usize, name: &str| {
            Ok::<_, NeuronError>(Rc::new(Tensor::allocate(runtime, core, 4 * len, name)?))
        };
        let (mut inputs, mut outputs) = (TensorSet::new(runtime)?, TensorSet::new(runtime)?);
        let mut values = Vec::new();
        for name in &bucket.inputs {
            let one = tensor(bucket.batch * bucket.seq, name)?;
            inputs.add(name, &one)?;
            values.push(one);
        }
        for (name, weight) in bucket.weights.iter().zip(weights) {
            inputs.add(name, weight)?;
        }
        let len = bucket.batch * width;
        let rows = tensor(len, &bucket.output)?;
        outputs.add(&bucket.output, &rows)?;
        Ok(Self {
            inputs,
            outputs,
            values,
            rows,
            len,
        })
    }
}
