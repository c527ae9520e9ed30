//! [`CacheManager`]: what each request holds in every cache group, and the prefixes that requests share.
//!
//! Owns: one [`BlockPool`] per group and the [`PrefixIndex`] over them. Must not know: tensors, queues, priorities.
//!
//! Invariants: a request grows in all groups or in none; only blocks whose contents were computed are published, at
//! [`CacheManager::commit`]; a prefix hit is one that every group can resume from, and leaves at least one token to
//! compute.

use super::key::{NodeId, PrefixIndex, Salt};
use super::pool::{BlockId, BlockPool};
use koma_models::StateSlots;
use koma_models::kernels::{BlockTables, CacheGroup, GroupKind};

/// What the manager must know of a model and its settings.
#[derive(Debug, Clone)]
pub(crate) struct CacheShape {
    /// The model's cache groups.
    pub(crate) groups: Vec<CacheGroup>,
    /// Blocks in each group.
    pub(crate) blocks: usize,
    /// Tokens per block.
    pub(crate) block_size: usize,
    /// Whether equal prefixes are shared.
    pub(crate) prefix_cache: bool,
    /// Part of the blocks that admission keeps free while something runs.
    pub(crate) watermark: f64,
    /// Most tokens of a request in one step.
    pub(crate) max_step: usize,
}

/// What a group keeps of a request, sizes aside.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Full,
    Sliding { window: usize },
    Recurrent,
}

/// What one request holds. Made empty; filled by [`CacheManager::admit`] and [`CacheManager::grow`].
#[derive(Debug, Default)]
pub(crate) struct RequestCache {
    held: Vec<Held>,
    /// The prefix of the first `published` blocks.
    tip: Option<NodeId>,
    published: usize,
    /// No room for its prefix in the index: nothing after it can be published.
    unpublishable: bool,
}

/// What a request holds in one group.
#[derive(Debug, Clone)]
enum Held {
    /// Blocks by position; the first `freed` are behind the window.
    Table { blocks: Vec<BlockId>, freed: usize },
    /// Between steps `write` holds the state and `read` is none; in a step both say where the state comes from and goes.
    State {
        read: Option<BlockId>,
        write: Option<BlockId>,
    },
}

impl RequestCache {
    /// The block table in attention group `group`.
    pub(crate) fn table(&self, group: usize) -> &[BlockId] {
        match &self.held[group] {
            Held::Table { blocks, .. } => blocks,
            Held::State { .. } => &[],
        }
    }

    /// The state slots of this step in recurrent group `group`.
    pub(crate) fn state(&self, group: usize) -> Option<StateSlots> {
        match self.held[group] {
            Held::State { read, write } => write.map(|write| StateSlots { read, write }),
            Held::Table { .. } => None,
        }
    }
}

/// Block `from` of `group` is copied onto block `to` before the next forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockCopy {
    /// The group.
    pub(crate) group: usize,
    /// Source.
    pub(crate) from: BlockId,
    /// Destination.
    pub(crate) to: BlockId,
}

/// The book-keeping of one model's cache. Without groups, everything fits and nothing is kept.
#[derive(Debug)]
pub(crate) struct CacheManager {
    kinds: Vec<Kind>,
    pools: Vec<BlockPool>,
    index: PrefixIndex,
    block_size: usize,
    prefix_cache: bool,
    watermark_blocks: usize,
    max_step: usize,
    /// Known prefixes of the request being looked up, shortest first.
    path: Vec<NodeId>,
}

impl CacheManager {
    /// An idle cache.
    pub(crate) fn new(shape: &CacheShape) -> Self {
        let groups = shape.groups.len();
        let nodes = if shape.prefix_cache {
            // Each block holds at most one prefix; as many again for prefixes on the way to a cached one.
            2 * groups * shape.blocks
        } else {
            0
        };
        Self {
            kinds: shape
                .groups
                .iter()
                .map(|group| match group.kind {
                    GroupKind::Full(_) => Kind::Full,
                    GroupKind::Sliding { window, .. } => Kind::Sliding {
                        window: window.max(1),
                    },
                    GroupKind::Recurrent { .. } => Kind::Recurrent,
                })
                .collect(),
            pools: shape
                .groups
                .iter()
                .map(|_| BlockPool::new(shape.blocks))
                .collect(),
            index: PrefixIndex::new(nodes, shape.block_size, groups),
            block_size: shape.block_size,
            prefix_cache: shape.prefix_cache && groups > 0,
            watermark_blocks: (shape.blocks as f64 * shape.watermark) as usize,
            max_step: shape.max_step,
            path: Vec::new(),
        }
    }

    /// Whether prefixes are looked up at all.
    pub(crate) fn prefix_cache(&self) -> bool {
        self.prefix_cache
    }

    /// A step that does not finish its request should end at a multiple of this, so that the state there can be kept.
    pub(crate) fn chunk_multiple(&self) -> usize {
        let recurrent = self.kinds.iter().any(|k| matches!(k, Kind::Recurrent));
        if recurrent && self.prefix_cache {
            self.block_size
        } else {
            1
        }
    }

    /// Blocks held by requests, over all groups.
    pub(crate) fn used(&self) -> usize {
        self.pools.iter().map(|p| p.total() - p.free()).sum()
    }

    /// Takes a request's cached prefix, if there is room for all its `tokens` beside those who run (`keep`: and for the
    /// watermark). Gives the tokens that need not be computed. Its table has memory for `max_total` tokens from now on.
    pub(crate) fn admit(
        &mut self,
        cache: &mut RequestCache,
        salt: &Salt,
        tokens: &[u32],
        max_total: usize,
        keep: bool,
    ) -> Option<usize> {
        let hit = self.lookup(salt, tokens);
        let watermark = if keep { self.watermark_blocks } else { 0 };
        let fits = (0..self.kinds.len())
            .all(|g| self.wanted(g, hit, tokens.len()) + watermark <= self.pools[g].free());
        if !fits {
            return None;
        }
        cache.held.clear();
        for g in 0..self.kinds.len() {
            let held = self.take_prefix(g, hit, max_total);
            cache.held.push(held);
        }
        cache.tip = hit.checked_sub(1).map(|last| self.path[last]);
        if let Some(tip) = cache.tip {
            self.index.retain(tip);
        }
        (cache.published, cache.unpublishable) = (hit, !self.prefix_cache);
        Some(hit * self.block_size)
    }

    /// Makes room for `count` tokens after the first `computed`, in all groups. False: there is none, nothing changed.
    pub(crate) fn grow(&mut self, cache: &mut RequestCache, computed: usize, count: usize) -> bool {
        let blocks = (computed + count).div_ceil(self.block_size);
        let missing = |g: usize, held: &Held| match held {
            Held::Table { blocks: have, .. } => blocks.saturating_sub(have.len()),
            Held::State { write, .. } => usize::from(write.is_none_or(|w| self.is_published(g, w))),
        };
        let held = cache.held.iter().enumerate();
        if held
            .into_iter()
            .any(|(g, h)| missing(g, h) > self.pools[g].free())
        {
            return false;
        }
        for (g, held) in cache.held.iter_mut().enumerate() {
            match held {
                Held::Table { blocks: have, .. } => {
                    while have.len() < blocks {
                        have.extend(self.take(g));
                    }
                }
                Held::State { read, write } => {
                    *read = *write;
                    if write.is_none_or(|w| self.is_published(g, w)) {
                        *write = self.take(g);
                    }
                }
            }
        }
        true
    }

    /// A step has computed the request's first `computed` tokens: publishes what became full, frees what no later token
    /// sees.
    pub(crate) fn commit(
        &mut self,
        cache: &mut RequestCache,
        salt: &Salt,
        tokens: &[u32],
        computed: usize,
    ) {
        self.publish(cache, salt, tokens, computed);
        for (g, held) in cache.held.iter_mut().enumerate() {
            match held {
                Held::State { read, write } => {
                    if let Some(old) = read.take().filter(|&old| Some(old) != *write) {
                        self.pools[g].release(old);
                    }
                }
                Held::Table { blocks, freed } => {
                    let Kind::Sliding { window } = self.kinds[g] else {
                        continue;
                    };
                    // The next token, at position `computed`, sees itself and the `window - 1` before it.
                    let first = (computed + 1).saturating_sub(window) / self.block_size;
                    for block in &mut blocks[*freed..first.max(*freed)] {
                        self.pools[g].release(std::mem::replace(block, BlockTables::FREED));
                    }
                    *freed = first.max(*freed);
                }
            }
        }
    }

    /// Whether any layers keep a state.
    pub(crate) fn has_states(&self) -> bool {
        let state = |kind: &Kind| !matches!(kind, Kind::Full | Kind::Sliding { .. });
        self.kinds.iter().any(state)
    }

    /// What a copy of the request needs after `computed` tokens: full blocks are shared, a partly filled one is copied
    /// (`copies`, to be done before the next forward). None if there is no free block for that.
    pub(crate) fn fork(
        &mut self,
        cache: &RequestCache,
        computed: usize,
        copies: &mut Vec<BlockCopy>,
    ) -> Option<RequestCache> {
        let full = computed / self.block_size;
        let partial = usize::from(!computed.is_multiple_of(self.block_size));
        let needs = |g: usize, held: &Held| match held {
            Held::Table { .. } => partial,
            Held::State { write, .. } => {
                usize::from(write.is_some_and(|w| !self.is_published(g, w)))
            }
        };
        let mut held = cache.held.iter().enumerate();
        if held.any(|(g, h)| needs(g, h) > self.pools[g].free()) {
            return None;
        }
        let mut copy = |this: &mut Self, group: usize, from: BlockId| {
            let to = this.take(group);
            copies.extend(to.map(|to| BlockCopy { group, from, to }));
            to
        };
        let mut forked = Vec::with_capacity(cache.held.len());
        for (g, held) in cache.held.iter().enumerate() {
            forked.push(match held {
                Held::Table { blocks, freed } => {
                    let mut table = Vec::with_capacity(blocks.capacity());
                    table.extend_from_slice(&blocks[..full]);
                    table[*freed..].iter().for_each(|&b| self.pools[g].touch(b));
                    table.extend(blocks.get(full).and_then(|&tail| copy(self, g, tail)));
                    Held::Table {
                        blocks: table,
                        freed: *freed,
                    }
                }
                Held::State { write, .. } => {
                    let shared = write.filter(|&w| self.is_published(g, w));
                    if let Some(w) = shared {
                        self.pools[g].touch(w);
                    }
                    Held::State {
                        read: None,
                        write: shared.or_else(|| write.and_then(|w| copy(self, g, w))),
                    }
                }
            });
        }
        cache.tip.into_iter().for_each(|tip| self.index.retain(tip));
        Some(RequestCache {
            held: forked,
            tip: cache.tip,
            published: cache.published,
            unpublishable: cache.unpublishable,
        })
    }

    /// Gives back all that a request holds, last block first, so that the end of a prefix is reused before its start.
    pub(crate) fn free(&mut self, cache: &mut RequestCache) {
        for (g, held) in cache.held.drain(..).enumerate() {
            match held {
                Held::Table { blocks, freed } => {
                    let held = blocks[freed..].iter().rev();
                    held.for_each(|&block| self.pools[g].release(block));
                }
                Held::State { read, write } => {
                    let old = read.filter(|&read| Some(read) != write);
                    old.into_iter()
                        .chain(write)
                        .for_each(|slot| self.pools[g].release(slot));
                }
            }
        }
        if let Some(tip) = cache.tip.take() {
            self.index.release(tip);
        }
        cache.published = 0;
    }

    /// The longest cached prefix of `tokens`, in blocks, that every group can resume from; `self.path` has its nodes.
    fn lookup(&mut self, salt: &Salt, tokens: &[u32]) -> usize {
        self.path.clear();
        if !self.prefix_cache {
            return 0;
        }
        let mut parent = None;
        let mut best = 0;
        let most = tokens.len().saturating_sub(1) / self.block_size;
        for block in tokens.chunks_exact(self.block_size).take(most) {
            let Some(node) = self.index.find(parent, salt, block) else {
                break;
            };
            let mut full = (0..self.kinds.len()).filter(|&g| matches!(self.kinds[g], Kind::Full));
            if full.any(|g| self.index.block(node, g).is_none()) {
                break;
            }
            self.path.push(node);
            parent = Some(node);
            if (0..self.kinds.len()).all(|g| self.can_resume(g, self.path.len())) {
                best = self.path.len();
            }
        }
        best
    }

    /// Whether `group` has what a token after the first `blocks` blocks of the looked-up prefix needs.
    fn can_resume(&self, group: usize, blocks: usize) -> bool {
        self.prefix_range(group, blocks)
            .all(|i| self.index.block(self.path[i], group).is_some())
    }

    /// Which of the first `blocks` blocks of a prefix a later token needs in `group`.
    fn prefix_range(&self, group: usize, blocks: usize) -> std::ops::Range<usize> {
        match self.kinds[group] {
            Kind::Full => 0..blocks,
            Kind::Sliding { window } => {
                (blocks * self.block_size + 1).saturating_sub(window) / self.block_size..blocks
            }
            Kind::Recurrent => blocks.saturating_sub(1)..blocks,
        }
    }

    /// Free blocks that a request of `len` tokens takes from `group` after a hit of `hit` blocks: new ones, and those of
    /// the hit that nobody holds.
    fn wanted(&self, group: usize, hit: usize, len: usize) -> usize {
        let idle = self
            .prefix_range(group, hit)
            .filter_map(|i| self.index.block(self.path[i], group))
            .filter(|&block| self.pools[group].refs(block) == 0)
            .count();
        let rest = len.div_ceil(self.block_size) - hit;
        let new = match self.kinds[group] {
            Kind::Full => rest,
            Kind::Sliding { window } => {
                rest.min((window + self.max_step).div_ceil(self.block_size) + 1)
            }
            // The state it writes, and the one it has published and reads.
            Kind::Recurrent => 1 + usize::from(self.prefix_cache && hit == 0),
        };
        idle + new
    }

    fn take_prefix(&mut self, group: usize, hit: usize, max_total: usize) -> Held {
        let range = self.prefix_range(group, hit);
        let freed = range.start;
        let mut blocks = Vec::new();
        if !matches!(self.kinds[group], Kind::Recurrent) {
            blocks.reserve_exact(max_total.div_ceil(self.block_size));
            blocks.resize(freed, BlockTables::FREED);
        }
        for i in range {
            if let Some(block) = self.index.block(self.path[i], group) {
                self.pools[group].touch(block);
                blocks.push(block);
            }
        }
        match self.kinds[group] {
            Kind::Recurrent => Held::State {
                read: None,
                write: blocks.first().copied(),
            },
            Kind::Full | Kind::Sliding { .. } => Held::Table { blocks, freed },
        }
    }

    fn publish(&mut self, cache: &mut RequestCache, salt: &Salt, tokens: &[u32], computed: usize) {
        let size = self.block_size;
        while !cache.unpublishable && cache.published < computed / size {
            let i = cache.published;
            let block = &tokens[i * size..(i + 1) * size];
            let Some(node) = self.index.intern(cache.tip, salt, block) else {
                cache.unpublishable = true;
                return;
            };
            if let Some(old) = cache.tip.replace(node) {
                self.index.release(old);
            }
            cache.published += 1;
            for (g, held) in cache.held.iter().enumerate() {
                if let Held::Table { blocks, freed } = held
                    && i >= *freed
                {
                    self.publish_block(g, node, blocks[i]);
                }
            }
        }
        if let Some(tip) = cache.tip
            && cache.published * size == computed
        {
            for (g, held) in cache.held.iter().enumerate() {
                if let Held::State { write: Some(w), .. } = held {
                    self.publish_block(g, tip, *w);
                }
            }
        }
    }

    /// `block` holds `node`, unless another block does already (then this one stays private).
    fn publish_block(&mut self, group: usize, node: NodeId, block: BlockId) {
        if self.index.block(node, group).is_none() && self.pools[group].node(block).is_none() {
            self.index.attach(node, group, block);
            self.pools[group].publish(block, node);
        }
    }

    /// Whether a state slot must not be written again.
    fn is_published(&self, group: usize, slot: BlockId) -> bool {
        self.pools[group].node(slot).is_some()
    }

    fn take(&mut self, group: usize) -> Option<BlockId> {
        let (block, evicted) = self.pools[group].take()?;
        if let Some(node) = evicted {
            self.index.detach(node, group);
        }
        Some(block)
    }

    /// Proves the module's invariants by counting everything anew. `holders`: what each request holds, and how many
    /// tokens it has computed.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub(crate) fn check_integrity<'a>(
        &self,
        holders: impl Iterator<Item = (&'a RequestCache, usize)> + Clone,
    ) -> Result<(), String> {
        for (g, pool) in self.pools.iter().enumerate() {
            let mut refs = vec![0; pool.total()];
            for (cache, computed) in holders.clone().filter(|(c, _)| !c.held.is_empty()) {
                match &cache.held[g] {
                    Held::Table { blocks, freed } => {
                        let full = computed / self.block_size;
                        for (i, &block) in blocks.iter().enumerate().skip(*freed) {
                            refs[block as usize] += 1;
                            if i >= full && pool.refs(block) != 1 {
                                return Err(format!("group {g}: partial block {block} is shared"));
                            }
                        }
                    }
                    Held::State { read, write } => {
                        let slots = read
                            .filter(|r| Some(*r) != *write)
                            .into_iter()
                            .chain(*write);
                        for slot in slots {
                            refs[slot as usize] += 1;
                            if pool.refs(slot) > 1 && !self.is_published(g, slot) {
                                return Err(format!("group {g}: live state {slot} is shared"));
                            }
                        }
                    }
                }
            }
            self.check_pool(g, &refs)?;
        }
        self.index.check(holders.filter_map(|(cache, _)| cache.tip))
    }

    fn check_pool(&self, group: usize, refs: &[u32]) -> Result<(), String> {
        let pool = &self.pools[group];
        let mut listed = vec![false; pool.total()];
        for block in pool.free_list() {
            if std::mem::replace(&mut listed[block as usize], true) {
                return Err(format!("group {group}: block {block} is listed twice"));
            }
        }
        if listed.iter().filter(|&&l| l).count() != pool.free() {
            return Err(format!(
                "group {group}: the free list is not as long as it says"
            ));
        }
        for (i, &counted) in refs.iter().enumerate() {
            let id = i as BlockId;
            if pool.refs(id) != counted {
                return Err(format!(
                    "group {group}: block {id} has {} references, but {counted} holders",
                    pool.refs(id)
                ));
            }
            if listed[i] != (counted == 0) {
                return Err(format!(
                    "group {group}: block {id} is lost, or free and held"
                ));
            }
            if let Some(node) = pool.node(id)
                && self.index.block(node, group) != Some(id)
            {
                return Err(format!("group {group}: block {id} is not under its prefix"));
            }
        }
        Ok(())
    }
}
