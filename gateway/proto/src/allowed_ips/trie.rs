//! Prefixes of one address family: path-compressed binary tries in one array.
//!
//! Enters: keys (addresses as integers), prefix lengths and owners. Leaves: the owner of the longest prefix that
//! holds a key. Never does: allocate or write on lookup, or hold pointers; nodes name each other by index, so a
//! clone is a few copies of memory.
//!
//! Prefixes of at least `ROOT_BITS` bits lie in a trie of their own for each value of their first bits, found by
//! one array access; shorter ones in one more trie, asked when the first has no answer. Nodes of one owner are
//! linked in a list, so that an owner's prefixes are listed and removed without a scan.

use crate::PeerId;

/// An address as an integer.
pub(super) trait Key: Copy + Eq {
    /// Bits of an address.
    const BITS: u8;
    /// Leading bits that select a trie.
    const ROOT_BITS: u8;
    fn common(self, other: Self) -> u8;
    fn bit(self, at: u8) -> usize;
    fn masked(self, len: u8) -> Self;
    fn root(self) -> usize;
}

impl Key for u32 {
    const BITS: u8 = 32;
    const ROOT_BITS: u8 = 16;

    #[inline]
    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    #[inline]
    fn bit(self, at: u8) -> usize {
        (self >> (31 - at)) as usize & 1
    }

    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(32 - Self::from(len)).unwrap_or(0)
    }

    #[inline]
    fn root(self) -> usize {
        (self >> 16) as usize
    }
}

impl Key for u128 {
    const BITS: u8 = 128;
    const ROOT_BITS: u8 = 0;

    #[inline]
    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    #[inline]
    fn bit(self, at: u8) -> usize {
        (self >> (127 - at)) as usize & 1
    }

    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }

    #[inline]
    fn root(self) -> usize {
        0
    }
}

const NIL: u32 = u32::MAX;
/// The owner of a node that only branches.
const NOBODY: PeerId = PeerId { slot: u32::MAX, generation: 0 };

#[derive(Debug, Clone, Copy)]
struct Node<K> {
    key: K,
    children: [u32; 2],
    owner: PeerId,
    len: u8,
}

/// Neighbours in the list of an owner's nodes.
#[derive(Debug, Clone, Copy)]
struct Siblings {
    before: u32,
    after: u32,
}

/// Where the index of a node is written.
#[derive(Debug, Clone, Copy)]
enum Link {
    Root(usize),
    Child(u32, usize),
}

/// All prefixes of a family.
#[derive(Debug, Clone)]
pub(super) struct Trie<K> {
    /// First the trie of short prefixes, then (once there is a long one) those of the long ones.
    roots: Vec<u32>,
    nodes: Vec<Node<K>>,
    siblings: Vec<Siblings>,
    /// The first node of each owner, by its slot.
    heads: Vec<u32>,
    free: Vec<u32>,
    len: usize,
}

impl<K: Key> Trie<K> {
    pub(super) const fn new() -> Self {
        Self { roots: Vec::new(), nodes: Vec::new(), siblings: Vec::new(), heads: Vec::new(), free: Vec::new(), len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn lookup(&self, key: K) -> Option<PeerId> {
        if K::ROOT_BITS > 0
            && let Some(&root) = self.roots.get(1 + key.root())
            && let Some(owner) = self.walk(root, key)
        {
            return Some(owner);
        }
        self.walk(*self.roots.first()?, key)
    }

    #[inline]
    fn walk(&self, mut at: u32, key: K) -> Option<PeerId> {
        let mut best = NOBODY;
        while let Some(node) = self.nodes.get(at as usize) {
            if key.common(node.key) < node.len {
                break;
            }
            if node.owner.slot != NOBODY.slot {
                best = node.owner;
            }
            if node.len == K::BITS {
                break;
            }
            at = node.children[key.bit(node.len)];
        }
        (best.slot != NOBODY.slot).then_some(best)
    }

    /// Gives a prefix to an owner and returns the one that had it.
    pub(super) fn insert(&mut self, key: K, len: u8, owner: PeerId) -> Option<PeerId> {
        let key = key.masked(len);
        let mut link = self.root_link(key, len);
        let at = loop {
            let at = self.read(link);
            if at == NIL {
                break self.add_leaf(link, key, len);
            }
            let node = self.nodes[at as usize];
            let common = key.common(node.key).min(node.len).min(len);
            if common < node.len {
                break self.add_above(link, at, common, key, len);
            }
            if len == node.len {
                break at;
            }
            link = Link::Child(at, key.bit(node.len));
        };
        let previous = self.nodes[at as usize].owner;
        if previous == owner {
            return Some(owner);
        }
        if previous != NOBODY {
            self.unlist(at);
        }
        self.nodes[at as usize].owner = owner;
        self.list(at);
        (previous != NOBODY).then_some(previous)
    }

    /// Takes a prefix from an owner; false when it does not own it.
    pub(super) fn remove(&mut self, key: K, len: u8, owner: PeerId) -> bool {
        let key = key.masked(len);
        let root = if self.roots.is_empty() { return false } else { self.root_link(key, len) };
        let (mut parent, mut link) = (None, root);
        loop {
            let at = self.read(link);
            let Some(node) = self.nodes.get(at as usize) else { return false };
            if node.len > len || key.common(node.key) < node.len {
                return false;
            }
            if node.len == len {
                if node.owner != owner {
                    return false;
                }
                self.unlist(at);
                self.nodes[at as usize].owner = NOBODY;
                self.prune(link);
                if let Some(parent) = parent {
                    self.prune(parent);
                }
                return true;
            }
            parent = Some(link);
            link = Link::Child(at, key.bit(node.len));
        }
    }

    /// Some prefix of an owner.
    pub(super) fn first_of(&self, owner: PeerId) -> Option<(K, u8)> {
        self.of(owner).next()
    }

    /// The prefixes of an owner.
    pub(super) fn of(&self, owner: PeerId) -> impl Iterator<Item = (K, u8)> + '_ {
        let mut at = self.heads.get(owner.slot as usize).copied().unwrap_or(NIL);
        std::iter::from_fn(move || {
            loop {
                let node = self.nodes.get(at as usize)?;
                at = self.siblings[at as usize].after;
                // An earlier owner of the slot may still be listed.
                if node.owner == owner {
                    return Some((node.key, node.len));
                }
            }
        })
    }

    fn root_link(&mut self, key: K, len: u8) -> Link {
        let long = K::ROOT_BITS > 0 && len >= K::ROOT_BITS;
        let needed = if long { 1 + (1 << K::ROOT_BITS) } else { 1 };
        if self.roots.len() < needed {
            self.roots.resize(needed, NIL);
        }
        Link::Root(if long { 1 + key.root() } else { 0 })
    }

    fn read(&self, link: Link) -> u32 {
        match link {
            Link::Root(root) => self.roots[root],
            Link::Child(parent, side) => self.nodes[parent as usize].children[side],
        }
    }

    fn write(&mut self, link: Link, to: u32) {
        match link {
            Link::Root(root) => self.roots[root] = to,
            Link::Child(parent, side) => self.nodes[parent as usize].children[side] = to,
        }
    }

    fn add_node(&mut self, key: K, len: u8) -> u32 {
        let node = Node { key, children: [NIL; 2], owner: NOBODY, len };
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        self.nodes.push(node);
        self.siblings.push(Siblings { before: NIL, after: NIL });
        (self.nodes.len() - 1) as u32
    }

    fn add_leaf(&mut self, link: Link, key: K, len: u8) -> u32 {
        let leaf = self.add_node(key, len);
        self.write(link, leaf);
        leaf
    }

    /// Puts a prefix above or beside the node `below`, with which it shares only `common` bits.
    fn add_above(&mut self, link: Link, below: u32, common: u8, key: K, len: u8) -> u32 {
        let below_side = self.nodes[below as usize].key.bit(common);
        let branch = self.add_node(key.masked(common), common);
        self.nodes[branch as usize].children[below_side] = below;
        self.write(link, branch);
        if common == len {
            return branch;
        }
        self.add_leaf(Link::Child(branch, 1 - below_side), key, len)
    }

    /// Takes the node at a link away when it neither owns nor branches.
    fn prune(&mut self, link: Link) {
        let at = self.read(link);
        let node = self.nodes[at as usize];
        let heir = match node.children {
            [NIL, NIL] => NIL,
            [only, NIL] | [NIL, only] => only,
            _ => return,
        };
        if node.owner == NOBODY {
            self.write(link, heir);
            self.free.push(at);
        }
    }

    /// Puts a node into its owner's list.
    fn list(&mut self, at: u32) {
        self.len += 1;
        let slot = self.nodes[at as usize].owner.slot as usize;
        if self.heads.len() <= slot {
            self.heads.resize(slot + 1, NIL);
        }
        let after = std::mem::replace(&mut self.heads[slot], at);
        self.siblings[at as usize] = Siblings { before: NIL, after };
        if after != NIL {
            self.siblings[after as usize].before = at;
        }
    }

    /// Takes a node out of its owner's list.
    fn unlist(&mut self, at: u32) {
        self.len -= 1;
        let Siblings { before, after } = self.siblings[at as usize];
        if before == NIL {
            self.heads[self.nodes[at as usize].owner.slot as usize] = after;
        } else {
            self.siblings[before as usize].after = after;
        }
        if after != NIL {
            self.siblings[after as usize].before = before;
        }
    }
}
