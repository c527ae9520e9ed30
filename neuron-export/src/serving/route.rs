//! [`Router`]: which requests of a batch run together, in which bucket, on which core. Pure: numbers in, numbers out.

use koma_models::NeuronBucket;
use std::cmp::Reverse;
use std::ops::Range;

/// What an execution costs beside its places (rows x tokens), in places: AWS publishes 0.58 ms for `DistilBERT` at 1 x 128 and 6.0 ms at
/// 16 x 128 on inf2.xlarge, which is 0.36 ms for 128 places and 0.22 ms for each execution. An estimate: it decides what runs where, never
/// what is answered.
const EXECUTION: usize = 78;

/// Requests that run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The bucket's number.
    pub(super) bucket: usize,
    /// Its requests, as a part of the order that [`Router::route`] made: row `i` is the request `order[rows.start + i]`.
    pub(super) rows: Range<usize>,
    /// The core's number, of as many as there are.
    pub(super) core: usize,
}

/// See the module.
pub(super) struct Router {
    buckets: Vec<NeuronBucket>,
    /// Rows that buckets have, each number once, the largest first.
    sizes: Vec<usize>,
    cores: usize,
}

impl Router {
    /// For these buckets on as many cores.
    pub(super) fn new(buckets: &[NeuronBucket], cores: usize) -> Self {
        let mut sizes: Vec<usize> = buckets.iter().map(|bucket| bucket.batch).collect();
        sizes.sort_unstable_by_key(|size| Reverse(*size));
        sizes.dedup();
        Self {
            buckets: buckets.to_vec(),
            sizes,
            cores,
        }
    }

    /// Shares requests of these `lengths` out. `order` becomes the requests by length, longest first, so that rows of a chunk are
    /// alike; equal ones stay in the order of the batch.
    ///
    /// Every number of rows that a bucket has is tried: so many requests at a time, each time in the smallest bucket that holds them,
    /// on the core that has least to do. The one after which the last core is done first is taken; of equals, that with fewer
    /// executions.
    ///
    /// # Errors
    /// The length of a request that is longer than every bucket.
    pub(super) fn route(
        &self,
        lengths: &[usize],
        order: &mut Vec<usize>,
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), usize> {
        order.clear();
        order.extend(0..lengths.len());
        order.sort_by_key(|&request| Reverse(lengths[request]));
        let mut best: Option<(usize, usize)> = None;
        for size in &self.sizes {
            let time = self.cut(lengths, order, *size, chunks)?;
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, *size));
            }
        }
        chunks.clear();
        match best {
            Some((_, size)) => self.cut(lengths, order, size, chunks).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Cuts into chunks of `size` requests; the estimated time until all are done.
    fn cut(
        &self,
        lengths: &[usize],
        order: &[usize],
        size: usize,
        chunks: &mut Vec<Chunk>,
    ) -> Result<usize, usize> {
        chunks.clear();
        let mut busy = vec![0usize; self.cores];
        let mut start = 0;
        while start < order.len() {
            let (longest, left) = (lengths[order[start]], order.len() - start);
            let bucket = self.choose(longest, left.min(size)).ok_or(longest)?;
            let NeuronBucket { batch, seq } = self.buckets[bucket];
            let rows = start..start + left.min(size).min(batch);
            start = rows.end;
            let least = (0..self.cores).min_by_key(|core| busy[*core]);
            let core = least.unwrap_or(0);
            busy[core] += batch * seq + EXECUTION;
            chunks.push(Chunk { bucket, rows, core });
        }
        Ok(busy.into_iter().max().unwrap_or(0))
    }

    /// The smallest bucket for so many requests, of which none is longer than `longest`; if there is none, that with most rows.
    fn choose(&self, longest: usize, count: usize) -> Option<usize> {
        let bucket = |i: &usize| self.buckets[*i];
        let all = (0..self.buckets.len()).filter(|i| bucket(i).seq >= longest);
        let holding = all.clone().filter(|i| bucket(i).batch >= count);
        let places = |i: &usize| (bucket(i).batch * bucket(i).seq, bucket(i).batch);
        let largest = |i: &usize| (bucket(i).batch, Reverse(bucket(i).seq));
        holding
            .min_by_key(places)
            .or_else(|| all.max_by_key(largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bucket(batch: usize, seq: usize) -> NeuronBucket {
        NeuronBucket { batch, seq }
    }

    /// Batch x seq of {1, 4} x {32, 64}, and 2 x 128.
    const BUCKETS: [NeuronBucket; 5] = [
        bucket(1, 32),
        bucket(1, 64),
        bucket(2, 128),
        bucket(4, 32),
        bucket(4, 64),
    ];
    /// What `koma export` makes by default, of one length.
    const DEFAULT: [NeuronBucket; 3] = [bucket(1, 128), bucket(4, 128), bucket(16, 128)];

    /// Checks the requests of each chunk with the chunk's bucket, `(bucket, requests)`, core by core.
    fn check(
        (buckets, cores): (&[NeuronBucket], usize),
        lengths: &[usize],
        expected: &[&[(usize, &[usize])]],
    ) {
        let (mut order, mut chunks) = (vec![7], Vec::new());
        let router = Router::new(buckets, cores);
        router.route(lengths, &mut order, &mut chunks).unwrap();
        let on_core = |core: usize| {
            let chunks = chunks.iter().filter(move |chunk| chunk.core == core);
            chunks.map(|chunk| (chunk.bucket, &order[chunk.rows.clone()]))
        };
        let got: Vec<Vec<_>> = (0..cores).map(|core| on_core(core).collect()).collect();
        assert_eq!(got, expected, "{lengths:?} on {cores}");
    }

    #[test]
    fn on_one_core_the_smallest_bucket_that_fits_takes_all() {
        let one = (&BUCKETS[..], 1);
        check(one, &[], &[&[]]);
        check(one, &[1], &[&[(0, &[0])]]);
        check(one, &[32], &[&[(0, &[0])]]);
        check(one, &[33], &[&[(1, &[0])]]);
        check(one, &[65], &[&[(2, &[0])]]);
        check(one, &[5, 32], &[&[(3, &[1, 0])]]);
        check(one, &[9, 9, 9], &[&[(3, &[0, 1, 2])]]);
        check(one, &[9; 5], &[&[(3, &[0, 1, 2, 3]), (0, &[4])]]);
        check(one, &[128; 3], &[&[(2, &[0, 1]), (2, &[2])]]);
        // No bucket of 4 is long enough for the first.
        check(
            one,
            &[1, 40, 2, 128, 3, 50],
            &[&[(2, &[3, 5]), (4, &[1, 4, 2, 0])]],
        );
    }

    #[test]
    fn the_requests_of_a_step_are_shared_out_to_the_cores() {
        let (two, four) = ((&DEFAULT[..], 2), (&DEFAULT[..], 4));
        check(two, &[9], &[&[(0, &[0])], &[]]);
        check(two, &[9; 2], &[&[(0, &[0])], &[(0, &[1])]]);
        check(
            two,
            &[9; 8],
            &[&[(1, &[0, 1, 2, 3])], &[(1, &[4, 5, 6, 7])]],
        );
        check(
            four,
            &[9; 4],
            &[&[(0, &[0])], &[(0, &[1])], &[(0, &[2])], &[(0, &[3])]],
        );
        // Two executions of 4 rows on each core are done before one of 16 rows, whose core would be alone.
        check(
            two,
            &[9; 16],
            &[
                &[(1, &[0, 1, 2, 3]), (1, &[8, 9, 10, 11])],
                &[(1, &[4, 5, 6, 7]), (1, &[12, 13, 14, 15])],
            ],
        );
        // Enough for a large bucket on each.
        let (order, mut chunks) = (&mut Vec::new(), Vec::new());
        Router::new(&DEFAULT, 2)
            .route(&[9; 32], order, &mut chunks)
            .unwrap();
        let shape = |chunk: &Chunk| (chunk.bucket, chunk.rows.len(), chunk.core);
        let shapes: Vec<_> = chunks.iter().map(shape).collect();
        assert_eq!(shapes, [(2, 16, 0), (2, 16, 1)]);
    }

    #[test]
    fn each_request_runs_once_in_a_bucket_that_holds_it() {
        for seed in 0..500usize {
            let lengths: Vec<_> = (0..seed % 23)
                .map(|i| 1 + (seed * 37 + i * 53) % 128)
                .collect();
            let (mut order, mut chunks) = (Vec::new(), Vec::new());
            let cores = 1 + seed % 3;
            let router = Router::new(&BUCKETS, cores);
            router.route(&lengths, &mut order, &mut chunks).unwrap();
            let mut seen = vec![0; lengths.len()];
            for chunk in &chunks {
                let rows = &order[chunk.rows.clone()];
                assert!(!rows.is_empty() && rows.len() <= BUCKETS[chunk.bucket].batch);
                assert!(chunk.core < cores);
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
        let router = Router::new(&BUCKETS, 2);
        let too_long = router.route(&[3, 129], &mut Vec::new(), &mut Vec::new());
        assert_eq!(too_long, Err(129));
    }
}
