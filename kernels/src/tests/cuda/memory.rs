//! Devices, memory, copies, and what fails.

use super::*;
use crate::{Epilogue, Error, linear, rms_norm, soft_cap};

#[test]
fn a_device_that_will_not_do_is_an_error_that_says_why() {
    let open = |settings: &[(&str, i64)]| {
        let device = Device::new();
        for (what, value) in settings {
            device.set(what, *value);
        }
        (Gpu::open(device.number(), 0.9).map(|_| ()), device)
    };
    let (result, _) = open(&[("capability", 70)]);
    let message = result.expect_err("too old").to_string();
    assert!(
        message.contains("compute capability 7.0; 7.5 or higher is needed"),
        "{message}"
    );
    let (result, device) = open(&[("capability", 75)]);
    assert!(result.is_ok());
    assert_eq!(device.count("contexts"), 0, "nobody has it any more");
    let message = Gpu::open(9999, 0.9)
        .expect_err("no such device")
        .to_string();
    assert!(
        message.contains("cuda:9999") && message.contains("INVALID_DEVICE"),
        "{message}"
    );
    assert!(Gpu::found().expect("the stand-in").len() > 100);
}

#[test]
fn everything_goes_back() {
    let world = World::new();
    let device = Device::new();
    let number = device.number();
    {
        let gpu = Gpu::open(number, 1.0).expect("a device");
        let again = Gpu::open(number, 1.0).expect("a device");
        assert!(Arc::ptr_eq(&gpu, &again), "opened once");
        let cx = cx(Isa::Portable, 1).on(&gpu).expect("a stream");
        let mut random = Random::new(1);
        let weight = random.weight(40, 64, Format::Bf16);
        let mut out = Rows::new();
        linear(
            &cx,
            &random.rows(3, 64),
            &weight,
            Epilogue::default(),
            &mut out,
        );
        assert!(device.count("allocations") > 3);
        let (used, limit) = gpu.memory();
        assert!(used > 0 && used < limit);
        cx.check().expect("all is well");
        // In the wrong order on purpose.
        drop(gpu);
        drop(again);
        drop(cx);
        drop(out);
    }
    for what in ["allocations", "streams", "pinned", "events", "contexts"] {
        assert_eq!(device.count(what), 0, "{what}");
    }
    world.good();
}

#[test]
fn values_move_only_when_they_must() {
    let world = World::new();
    let x = Random::new(1).rows(4, 64);
    let weight = vec![1.0; 64];
    let (mut a, mut b) = (Rows::new(), Rows::new());
    let copies = || {
        (
            world.device.count("cuMemcpyHtoD"),
            world.device.count("cuMemcpyDtoH"),
        )
    };
    rms_norm(&world.cx, &x, &weight, 1e-5, &mut a);
    rms_norm(&world.cx, &a, &weight, 1e-5, &mut b);
    soft_cap(&world.cx, &mut b, 1.0);
    // The rows, and the weight once.
    assert_eq!(copies(), (2, 0));
    assert_eq!(world.device.count("cuStreamSynchronize"), 0);
    let (first, second) = (b.as_slice().as_ptr(), b.as_slice().as_ptr());
    assert_eq!((first, copies()), (second, (2, 1)), "read once");
    // The host writes: the device's values are there, and go back.
    b.row_mut(0)[0] = 9.0;
    soft_cap(&world.cx, &mut b, 1e6);
    assert_eq!(copies(), (3, 1));
    assert!((b.row(0)[0] - 9.0).abs() < 1e-3);
    assert_eq!(copies(), (3, 2));
    // A weight that changes in place is noticed.
    let mut weight = weight;
    weight[5] = 3.0;
    rms_norm(&world.cx, &x, &weight, 1e-5, &mut b);
    assert_eq!(b.row(1)[5].to_bits(), (3.0 * a.row(1)[5]).to_bits());
    world.good();
}

#[test]
fn a_step_that_finds_no_memory_fails_and_the_next_does_not() {
    let world = World::new();
    let x = Random::new(1).rows(4, 64);
    let weight = vec![1.0; 64];
    let mut out = Rows::new();
    world.device.set("fail_alloc", 2);
    let launches = || world.device.count("cuLaunchKernel");
    let before = launches();
    rms_norm(&world.cx, &x, &weight, 1e-5, &mut out);
    soft_cap(&world.cx, &mut out, 1.0);
    assert_eq!(launches(), before, "nothing runs after a failure");
    match world.cx.check() {
        Err(Error::Device(Fault::Busy, message)) => {
            assert!(message.contains("512 bytes of memory, "), "{message}");
            assert!(message.contains(" of 1073741824 are free"), "{message}");
            assert!(message.contains("OUT_OF_MEMORY"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    rms_norm(&world.cx, &x, &weight, 1e-5, &mut out);
    let mut expected = Rows::new();
    reference::rms_norm(&x, &weight, 1e-5, &mut expected);
    assert_close("after", out.as_slice(), expected.as_slice(), 1e-6);
    world.good();
}

#[test]
fn the_budget_is_kept_and_free_memory_is_found_again() {
    let world = World::with(&[("memory", 20 << 20)]);
    let mut rows = Rows::from_vec(1 << 20, vec![1.0; 3 << 20]);
    soft_cap(&world.cx, &mut rows, 1.0);
    world.good();
    let mut more = Rows::from_vec(1 << 20, vec![1.0; 3 << 20]);
    soft_cap(&world.cx, &mut more, 1.0);
    let message = world
        .cx
        .check()
        .expect_err("12 of 20 MiB are in use")
        .to_string();
    assert!(
        message.contains("no memory for 12582912 bytes"),
        "{message}"
    );
    drop(rows);
    // Of another size than what is free now.
    let mut other = Rows::from_vec(1 << 20, vec![1.0; 4 << 20]);
    soft_cap(&world.cx, &mut other, 1.0);
    world.good();
    assert_eq!(world.gpu.memory().0, 16 << 20);
}

#[test]
fn a_device_that_breaks_stays_broken() {
    for what in ["fail_launch", "lose"] {
        let world = World::new();
        let mut x = Random::new(1).rows(4, 64);
        world.device.set(what, 1);
        soft_cap(&world.cx, &mut x, 1.0);
        assert_eq!(x.as_slice().len(), 256, "reading does not panic");
        for _ in 0..2 {
            let error = world.cx.check();
            assert!(
                matches!(error, Err(Error::Device(Fault::Broken, _))),
                "{what}: {error:?}"
            );
        }
        // Another device does not mind.
        World::new().good();
    }
}
