//! [`route`]: which requests of a batch run together, and in which bucket. Pure: numbers in, numbers out.

use koma_models::NeuronBucket;
use std::ops::Range;

/// Requests that run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The bucket's number.
    pub(super) bucket: usize,
    /// Its requests, as a part of the order that [`route`] made: row `i` is the request `order[rows.start + i]`.
    pub(super) rows: Range<usize>,
}

/// Cuts requests of these `lengths` into chunks. `order` becomes the requests by length, longest first, so that rows of a chunk are
/// alike; equal ones stay in the order of the batch.
///
/// What is left goes into the smallest bucket that holds all of it; if none does, the longest requests go into the largest batch
/// that is long enough, and so on.
///
/// # Errors
/// The length of a request that is longer than every bucket.
pub(super) fn route(
    lengths: &[usize],
    buckets: &[NeuronBucket],
    order: &mut Vec<usize>,
    chunks: &mut Vec<Chunk>,
) -> Result<(), usize> {
    order.clear();
    order.extend(0..lengths.len());
    order.sort_by_key(|&request| std::cmp::Reverse(lengths[request]));
    chunks.clear();
    let mut start = 0;
    while start < order.len() {
        let (longest, left) = (lengths[order[start]], order.len() - start);
        let bucket = choose(longest, left, buckets).ok_or(longest)?;
        let rows = start..start + left.min(buckets[bucket].batch);
        start = rows.end;
        chunks.push(Chunk { bucket, rows });
    }
    Ok(())
}

/// The bucket for the first of `left` requests, of which none is longer than `longest`.
fn choose(longest: usize, left: usize, buckets: &[NeuronBucket]) -> Option<usize> {
    let long_enough = |i: &usize| buckets[*i].seq >= longest;
    let places = |i: &usize| (buckets[*i].batch * buckets[*i].seq, buckets[*i].batch);
    let all = (0..buckets.len()).filter(long_enough);
    let whole = all.clone().filter(|&i| buckets[i].batch >= left);
    let largest = |i: &usize| (buckets[*i].batch, std::cmp::Reverse(buckets[*i].seq));
    whole.min_by_key(places).or_else(|| all.max_by_key(largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batch x seq of {1, 4} x {32, 64}, and 2 x 128.
    const BUCKETS: [NeuronBucket; 5] = [
        NeuronBucket { batch: 1, seq: 32 },
        NeuronBucket { batch: 1, seq: 64 },
        NeuronBucket { batch: 2, seq: 128 },
        NeuronBucket { batch: 4, seq: 32 },
        NeuronBucket { batch: 4, seq: 64 },
    ];

    fn check(lengths: &[usize], expected: &[(usize, &[usize])]) {
        let (mut order, mut chunks) = (vec![7], Vec::new());
        route(lengths, &BUCKETS, &mut order, &mut chunks).unwrap();
        let got: Vec<_> = chunks
            .iter()
            .map(|chunk| (chunk.bucket, &order[chunk.rows.clone()]))
            .collect();
        assert_eq!(got, expected, "{lengths:?}");
    }

    #[test]
    fn the_smallest_bucket_that_fits_takes_all() {
        check(&[], &[]);
        check(&[1], &[(0, &[0])]);
        check(&[32], &[(0, &[0])]);
        check(&[33], &[(1, &[0])]);
        check(&[65], &[(2, &[0])]);
        check(&[5, 32], &[(3, &[1, 0])]);
        check(&[5, 33], &[(2, &[1, 0])]);
        check(&[9, 9, 9], &[(3, &[0, 1, 2])]);
    }

    #[test]
    fn what_no_bucket_holds_is_split_longest_first() {
        check(&[9, 9, 9, 9, 9], &[(3, &[0, 1, 2, 3]), (0, &[4])]);
        check(&[1, 40, 2, 128, 3, 50], &[(2, &[3, 5]), (4, &[1, 4, 2, 0])]);
        check(&[128; 3], &[(2, &[0, 1]), (2, &[2])]);
    }

    #[test]
    fn each_request_runs_once_in_a_bucket_that_holds_it() {
        for seed in 0..500usize {
            let lengths: Vec<_> = (0..seed % 23)
                .map(|i| 1 + (seed * 37 + i * 53) % 128)
                .collect();
            let (mut order, mut chunks) = (Vec::new(), Vec::new());
            route(&lengths, &BUCKETS, &mut order, &mut chunks).unwrap();
            let mut seen = vec![0; lengths.len()];
            for chunk in &chunks {
                let rows = &order[chunk.rows.clone()];
                assert!(!rows.is_empty() && rows.len() <= BUCKETS[chunk.bucket].batch);
                for request in rows {
                    seen[*request] += 1;
                    assert!(lengths[*request] <= BUCKETS[chunk.bucket].seq);
                }
            }
            assert!(seen.iter().all(|times| *times == 1), "{seed}");
        }
    }

    #[test]
    fn too_long_for_every_bucket() {
        let too_long = route(&[3, 129], &BUCKETS, &mut Vec::new(), &mut Vec::new());
        assert_eq!(too_long, Err(129));
    }
}
