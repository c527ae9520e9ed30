//! `kernels::neuron` against the stand-in: what is computed, what goes wrong, and that all is given back.

use koma_kernels::neuron::{Dtype, Model, NeuronError, Runtime, Status, Tensor, TensorSet, Usage};
use koma_kernels::{Error, Fault};
use koma_tests::fake_nrt::{FakeNrt, neff, toy, toy_neff};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

const BATCH: usize = 4;
const SEQ: usize = 16;
const WIDTH: usize = 5;
const INPUTS: [&str; 2] = ["ids0", "mask0"];

/// A model with its tensors, as a thread has it.
struct Bound {
    inputs: TensorSet,
    outputs: TensorSet,
    tensors: [Rc<Tensor>; 3],
    model: Model,
}

impl Bound {
    fn new(runtime: &Arc<Runtime>, core: u32) -> Result<Self, NeuronError> {
        let neff = toy_neff(&INPUTS, (BATCH, SEQ, WIDTH), &[]);
        let model = Model::load(runtime, core, &neff)?;
        let tensor = |bytes, name| {
            Ok::<_, NeuronError>(Rc::new(Tensor::allocate(runtime, core, bytes, name)?))
        };
        let whole = 4 * BATCH * SEQ;
        let tensors = [
            tensor(whole, INPUTS[0])?,
            tensor(whole, INPUTS[1])?,
            tensor(4 * BATCH * WIDTH, "output0")?,
        ];
        let mut inputs = TensorSet::new(runtime)?;
        inputs.add(INPUTS[0], &tensors[0])?;
        inputs.add(INPUTS[1], &tensors[1])?;
        let mut outputs = TensorSet::new(runtime)?;
        outputs.add("output0", &tensors[2])?;
        Ok(Self {
            inputs,
            outputs,
            tensors,
            model,
        })
    }

    /// The rows of up to [`BATCH`] texts.
    fn run(&mut self, texts: &[Vec<u32>]) -> Result<Vec<f32>, NeuronError> {
        let (mut ids, mut mask) = ([0; BATCH * SEQ], [0; BATCH * SEQ]);
        for (row, text) in texts.iter().enumerate() {
            for (k, id) in text.iter().enumerate() {
                (ids[row * SEQ + k], mask[row * SEQ + k]) = (*id as i32, 1);
            }
        }
        self.tensors[0].write_i32(&ids)?;
        self.tensors[1].write_i32(&mask)?;
        self.model.execute(&self.inputs, &mut self.outputs)?;
        let mut rows = vec![0.0; BATCH * WIDTH];
        self.tensors[2].read_f32(&mut rows)?;
        Ok(rows)
    }
}

/// Different texts for each number, of all lengths.
fn texts(number: usize) -> Vec<Vec<u32>> {
    let text = |row: usize| {
        let len = 1 + (number + 5 * row) % SEQ;
        (0..len)
            .map(|k| ((number * 31 + row * 17 + k * 7) % 1000) as u32)
            .collect()
    };
    (0..BATCH).map(text).collect()
}

fn expected(texts: &[Vec<u32>]) -> Vec<f32> {
    texts
        .iter()
        .flat_map(|text| toy(text, &[], WIDTH, 0.0))
        .collect()
}

#[test]
fn each_core_computes_on_a_thread_of_its_own_and_all_is_given_back() {
    let fake = FakeNrt::new("cores 2");
    let runtime = Runtime::start(Some(&fake.library())).unwrap();
    assert_eq!(runtime.cores(), 2);
    std::thread::scope(|scope| {
        for core in 0..2 {
            let runtime = Arc::clone(&runtime);
            scope.spawn(move || {
                let mut bound = Bound::new(&runtime, core).unwrap();
                for number in 0..200 {
                    let texts = texts(number + core as usize * 1000);
                    assert_eq!(bound.run(&texts).unwrap(), expected(&texts), "{number}");
                }
            });
        }
    });
    drop(runtime);
    fake.check_released();
    assert_eq!(fake.closed()["executions"], 400);
}

#[test]
fn a_runtime_that_swaps_rows_is_noticed() {
    let fake = FakeNrt::new("swap 1");
    let runtime = Runtime::start(Some(&fake.library())).unwrap();
    let mut bound = Bound::new(&runtime, 0).unwrap();
    assert_ne!(bound.run(&texts(3)).unwrap(), expected(&texts(3)));
}

#[test]
fn a_neff_tells_its_tensors() {
    let fake = FakeNrt::new("");
    let runtime = Runtime::start(Some(&fake.library())).unwrap();
    let model = Model::load(
        &runtime,
        1,
        &toy_neff(&INPUTS, (2, 8, 3), &[("w", vec![10])]),
    )
    .unwrap();
    let tensors = model.tensors().unwrap().unwrap();
    let seen: Vec<_> = tensors
        .iter()
        .map(|t| {
            (
                t.name.as_str(),
                t.usage,
                t.dtype,
                t.shape.as_slice(),
                t.bytes,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("ids0", Usage::Input, Dtype::I32, &[2, 8][..], 64),
            ("mask0", Usage::Input, Dtype::I32, &[2, 8][..], 64),
            ("w", Usage::Input, Dtype::F32, &[10][..], 40),
            ("output0", Usage::Output, Dtype::F32, &[2, 3][..], 24),
        ]
    );
    drop((model, runtime));
    fake.check_released();
}

/// The error that the stand-in, told `conf`, gives somewhere on the way to a first answer; everything that was made until then is
/// given back.
fn error_with(conf: &str) -> NeuronError {
    let fake = FakeNrt::new(conf);
    let way = || {
        let runtime = Runtime::start(Some(&fake.library()))?;
        Bound::new(&runtime, 0)?.run(&texts(1))
    };
    let error = way().expect_err(conf);
    if !conf.starts_with("nrt_init") {
        fake.check_released();
    }
    error
}

#[test]
fn every_status_is_told_with_its_call_and_decides_what_becomes_of_a_request() {
    let table = [
        ("nrt_init", 1, Fault::Other),
        ("nrt_init", 6, Fault::Broken),
        ("nrt_get_visible_vnc_count", 13, Fault::Other),
        ("nrt_load", 2, Fault::Other),
        ("nrt_load", 9, Fault::Other),
        ("nrt_load", 10, Fault::Other),
        ("nrt_tensor_allocate", 4, Fault::Other),
        ("nrt_allocate_tensor_set", 4, Fault::Other),
        ("nrt_add_tensor_to_tensor_set", 2, Fault::Other),
        ("nrt_tensor_write", 6, Fault::Broken),
        ("nrt_tensor_read", 6, Fault::Broken),
        ("nrt_execute", 5, Fault::Timeout),
        ("nrt_execute", 6, Fault::Broken),
        ("nrt_execute", 7, Fault::Busy),
        ("nrt_execute", 101, Fault::Broken),
        ("nrt_execute", 1201, Fault::Broken),
        ("nrt_execute", 1204, Fault::Other),
        ("nrt_execute", 1002, Fault::Other),
        ("nrt_execute", 1003, Fault::Other),
        ("nrt_execute", 1004, Fault::Other),
        ("nrt_execute", 1005, Fault::Busy),
        ("nrt_execute", 4242, Fault::Other),
    ];
    for (call, code, fault) in table {
        let error = error_with(&format!("{call} {code} 0 0"));
        let status = Status(code);
        assert_eq!(error, NeuronError::Status { call, status });
        let Error::Device(got, message) = error.into_device() else {
            panic!("{call} {code} is an error of the device");
        };
        assert_eq!(got, fault, "{call} {code}");
        assert!(
            message.contains(call) && message.contains(&code.to_string()),
            "{message}"
        );
        assert_eq!(status.meaning() == "unknown status", code == 4242, "{code}");
    }
}

#[test]
fn damaged_neffs_and_wrong_sizes_are_refused() {
    let fake = FakeNrt::new("");
    let runtime = Runtime::start(Some(&fake.library())).unwrap();
    let whole = toy_neff(&INPUTS, (1, 8, 2), &[]);
    let mut old = whole.clone();
    old[8] = 1;
    for (neff, code) in [(&whole[..1000], 2), (&whole[..1030], 2), (&old[..], 10)] {
        let status = Model::load(&runtime, 0, neff)
            .err()
            .and_then(|error| error.status());
        assert_eq!(status, Some(Status(code)));
    }
    let core = Model::load(&runtime, 2, &whole)
        .err()
        .and_then(|error| error.status());
    assert_eq!(core, Some(Status(2)), "there are two cores");
    let tensor = Tensor::allocate(&runtime, 0, 8, "x").unwrap();
    for wrong in [
        tensor.write(&[0; 7]),
        tensor.write_i32(&[0; 3]),
        tensor.read_f32(&mut [0.0; 1]),
        TensorSet::new(&runtime)
            .unwrap()
            .add("a\0b", &Rc::new(tensor)),
    ] {
        assert!(matches!(wrong, Err(NeuronError::Contract(_))), "{wrong:?}");
    }
    // The stand-in's own check: an output that is not among the tensors of the execution.
    let model = Model::load(&runtime, 0, &neff("out o 10 1 1\n")).unwrap();
    let mut none = TensorSet::new(&runtime).unwrap();
    let inputs = TensorSet::new(&runtime).unwrap();
    let missing = model
        .execute(&inputs, &mut none)
        .err()
        .and_then(|error| error.status());
    assert_eq!(missing, Some(Status(2)));
}

#[test]
fn a_library_that_is_missing_or_another_one_is_named() {
    let told = |file: &str| match Runtime::start(Some(Path::new(file))) {
        Err(NeuronError::Library(told)) => told,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{file} is no runtime"),
    };
    assert!(told("/nowhere/libnrt.so.1").contains("/nowhere/libnrt.so.1"));
    let other = told("libc.so.6");
    assert!(
        other.contains("is not the Neuron runtime") && other.contains("nrt_init"),
        "{other}"
    );
}

#[test]
fn a_runtime_is_found_without_being_started() {
    let fake = FakeNrt::new("nrt_init 1 0 0");
    let found = Runtime::find(Some(&fake.library())).unwrap();
    assert_eq!(found.place, fake.library().display().to_string());
    assert_eq!(found.version.as_deref(), Some("2.99.1.0"));
    let missing = Runtime::find(Some(Path::new("/nowhere/libnrt.so.1")));
    assert!(matches!(missing, Err(NeuronError::Library(_))));
    assert!(matches!(
        Runtime::find(Some(Path::new("libc.so.6"))),
        Err(NeuronError::Library(_))
    ));
}

/// A runtime that has not all of the functions computes the same.
#[test]
fn a_runtime_may_lack_what_only_cross_checks() {
    let fake = FakeNrt::old("cores 2");
    let runtime = Runtime::start(Some(&fake.library())).unwrap();
    assert_eq!((runtime.cores(), runtime.version()), (2, None));
    let mut bound = Bound::new(&runtime, 1).unwrap();
    assert_eq!(bound.model.tensors(), Ok(None));
    assert_eq!(bound.run(&texts(5)).unwrap(), expected(&texts(5)));
    drop((bound, runtime));
    fake.check_released();
    let refused = FakeNrt::old("nrt_get_visible_nc_count 13 0 0");
    let error = Runtime::start(Some(&refused.library())).err().unwrap();
    assert!(
        error.to_string().contains("nrt_get_visible_nc_count"),
        "{error}"
    );
}

#[test]
fn a_process_starts_a_runtime_once() {
    let fake = FakeNrt::new("");
    let start = || Runtime::start(Some(&fake.library()));
    let first = start().unwrap();
    assert_eq!(start().err(), Some(NeuronError::Started));
    drop(first);
    assert_eq!(
        start().err(),
        Some(NeuronError::Started),
        "also when it is closed"
    );
}

#[test]
fn what_kept_a_runtime_from_starting_is_told_again() {
    let fake = FakeNrt::new("nrt_init 2 0 0");
    let start = || Runtime::start(Some(&fake.library())).err();
    let first = start().unwrap();
    assert_ne!(first, NeuronError::Started);
    assert_eq!(start(), Some(first));
}
