//! What a bidder and a leader do, one step at a time.

use super::state::{Assignment, Entry, Key, Plan, State, Value, WORKERS, Write};

/// The protocol as it is built, or broken to show that the model notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    AsBuilt,
    /// A new leader takes the plan as it finds it, and writes when it has something to say.
    NothingPlanted,
    /// The plan does not name its leader.
    NamelessPlan,
    /// A leader that lists assignments of a higher term rewrites them under its own.
    ListsBlindly,
}

/// A write on its way to certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Sent(Write),
    /// No answer, or a lost compare: the key is to be read.
    Unknown(Write),
}

type Todo = [Option<Assignment>; WORKERS];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Follower,
    Bidding {
        step: Step,
    },
    /// The lease is won; the plan is to be read.
    Won {
        term: u8,
    },
    /// A plan is being written: the one found, under our term, or one of our own with its assignments.
    Planning {
        plan: Plan,
        known: [Entry; WORKERS],
        todo: Option<Todo>,
        step: Step,
    },
    /// The term is in the plan; the assignments are to be listed.
    Planted {
        plan: Plan,
        revision: u8,
    },
    Writing {
        plan: Plan,
        revision: u8,
        known: [Entry; WORKERS],
        todo: Todo,
        restates: bool,
        step: Option<Step>,
    },
    Ready {
        term: u8,
        plan: Plan,
        revision: u8,
        known: [Entry; WORKERS],
        live: u8,
    },
}

fn held(entry: Entry) -> Assignment {
    match entry.value {
        Some(Value::Assignment(assignment)) => assignment,
        _ => Assignment::default(),
    }
}

impl Role {
    pub(super) fn step(&self) -> Option<Step> {
        match self {
            Role::Bidding { step } | Role::Planning { step, .. } => Some(*step),
            Role::Writing { step, .. } => *step,
            _ => None,
        }
    }

    /// There was no answer, or a lost compare.
    pub(super) fn ask(&mut self) {
        if let Some(Step::Sent(write)) = self.step() {
            self.set(Step::Unknown(write));
        }
    }

    fn set(&mut self, to: Step) {
        match self {
            Role::Bidding { step } | Role::Planning { step, .. } => *step = to,
            Role::Writing { step, .. } => *step = Some(to),
            _ => {}
        }
    }

    /// The term under which it has the lease, as far as it knows.
    pub(super) fn leads(&self) -> Option<u8> {
        match self {
            Role::Follower | Role::Bidding { .. } => None,
            Role::Won { term } | Role::Ready { term, .. } => Some(*term),
            Role::Planning { plan, .. } | Role::Planted { plan, .. } | Role::Writing { plan, .. } => Some(plan.term),
        }
    }

    /// Whether a partition has no living owner, or somebody is not in the plan.
    pub(super) fn must_plan(&self, known: &[Entry; WORKERS], all: u8) -> bool {
        let Role::Ready { live, plan, .. } = self else { return false };
        let owned = (0..WORKERS).filter(|w| live & (1 << w) != 0).fold(0, |has, w| has | held(known[w]).has);
        owned != all || *live != plan.live
    }
}

impl State {
    fn write(&mut self, at: u8, key: Key, value: Value, expect: u8) -> Step {
        Step::Sent(Write { by: at, key, value, expect })
    }

    pub(super) fn go(&mut self, at: u8, variant: Variant) {
        let me = usize::from(at);
        let role = match self.workers[me].role.clone() {
            Role::Follower => {
                let plan = self.plan();
                let term = 1 + self.workers[me].term.max(plan.term);
                self.workers[me].version = self.workers[me].version.max(plan.version);
                let expect = self.read(Key::Lease).revision;
                Role::Bidding { step: self.write(at, Key::Lease, Value::Lease { worker: at, term }, expect) }
            }
            Role::Won { term } if variant == Variant::NothingPlanted => {
                let plan = Plan { term, leader: at, ..self.plan() };
                Role::Planted { plan, revision: self.read(Key::Plan).revision }
            }
            Role::Won { term } => return self.plant(at, term, self.read(Key::Plan), self.list(), variant),
            Role::Planted { plan, revision } => self.collect(plan, revision, variant),
            role @ Role::Ready { .. } => self.publish(at, &role),
            role => role,
        };
        self.workers[me].role = role;
    }

    /// Puts our term into the plan that is there, content unchanged; who finds a higher one there, or his own, is no leader.
    fn plant(&mut self, at: u8, term: u8, found: Entry, known: [Entry; WORKERS], variant: Variant) {
        let me = usize::from(at);
        let before = match found.value {
            Some(Value::Plan(plan)) => plan,
            _ => Plan::default(),
        };
        let worker = &mut self.workers[me];
        worker.term = worker.term.max(before.term);
        if before.term >= term {
            worker.role = Role::Follower;
            return;
        }
        worker.version = worker.version.max(before.version) + 1;
        let leader = if variant == Variant::NamelessPlan { 0 } else { at };
        let plan = Plan { term, leader, version: worker.version, changed: before.live, ..before };
        let step = self.write(at, Key::Plan, Value::Plan(plan), found.revision);
        self.workers[me].role = Role::Planning { plan, known, todo: None, step };
    }

    /// Lists the assignments and begins to rewrite them under our term. What is in two belongs to the later one.
    fn collect(&self, plan: Plan, revision: u8, variant: Variant) -> Role {
        let known = self.list();
        if known.iter().any(|entry| held(*entry).term > plan.term) && variant != Variant::ListsBlindly {
            return Role::Follower;
        }
        let mut todo = [None; WORKERS];
        for (at, entry) in known.iter().enumerate().filter(|(_, e)| e.value.is_some()) {
            let mine = held(*entry);
            let rank = |a: Assignment, of: usize| (a.term, a.version, std::cmp::Reverse(of));
            let later = (0..WORKERS).filter(|o| *o != at && rank(held(known[*o]), *o) > rank(mine, at));
            let lost = later.fold(0, |all, o| all | held(known[o]).has);
            todo[at] = Some(Assignment { term: plan.term, version: plan.version, has: mine.has & !lost });
        }
        self.write_on(Role::Writing { plan, revision, known, todo, restates: true, step: None })
    }

    /// Everything written: ready, with everybody presumed alive who is not known to be dead.
    fn write_on(&self, role: Role) -> Role {
        match role {
            Role::Writing { plan, revision, known, todo, .. } if todo.iter().all(Option::is_none) => {
                Role::Ready { term: plan.term, plan, revision, known, live: self.all & !plan.dead }
            }
            role => role,
        }
    }

    /// A plan for who lives: partitions without a living owner go to those who have least, the others stay.
    fn publish(&mut self, at: u8, role: &Role) -> Role {
        let Role::Ready { term, plan: old, revision, known, live } = role else { return role.clone() };
        let alive = |w: &usize| live & (1 << w) != 0;
        let mut target: [u8; WORKERS] = std::array::from_fn(|w| if alive(&w) { held(known[w]).has } else { 0 });
        for partition in (0..WORKERS).map(|p| 1u8 << p).filter(|p| self.all & p != 0) {
            if target.iter().all(|has| has & partition == 0)
                && let Some(to) = (0..WORKERS).filter(alive).min_by_key(|w| target[*w].count_ones())
            {
                target[to] |= partition;
            }
        }
        let me = &mut self.workers[usize::from(at)];
        me.version = me.version.max(old.version) + 1;
        let version = me.version;
        let todo: Todo = std::array::from_fn(|w| {
            let stands = known[w].value.is_some() && held(known[w]).has == target[w];
            let concerned = alive(&w) || known[w].value.is_some();
            (concerned && !stands).then_some(Assignment { term: *term, version, has: target[w] })
        });
        let changed = (0..WORKERS).filter(|w| todo[*w].is_some()).fold(0, |all, w| all | (1 << w));
        let plan = Plan { term: *term, leader: old.leader, version, live: *live, dead: self.all & !live, changed };
        let step = self.write(at, Key::Plan, Value::Plan(plan), *revision);
        Role::Planning { plan, known: *known, todo: Some(todo), step }
    }

    pub(super) fn assign(&mut self, at: u8, of: u8) {
        let Role::Writing { plan, revision, known, todo, restates, .. } = self.workers[usize::from(at)].role.clone()
        else {
            return;
        };
        let Some(assignment) = todo[usize::from(of)] else { return };
        let expect = known[usize::from(of)].revision;
        let step = Some(self.write(at, Key::Assignment(of), Value::Assignment(assignment), expect));
        self.workers[usize::from(at)].role = Role::Writing { plan, revision, known, todo, restates, step };
    }

    /// Our write is there, with this revision.
    pub(super) fn landed(&mut self, at: u8, new: u8) {
        let me = usize::from(at);
        let role = match self.workers[me].role.clone() {
            Role::Bidding { step: Step::Sent(write) | Step::Unknown(write) } => {
                let Value::Lease { term, .. } = write.value else { return };
                self.workers[me].term = self.workers[me].term.max(term);
                Role::Won { term }
            }
            Role::Planning { plan, todo: None, .. } => Role::Planted { plan, revision: new },
            Role::Planning { plan, known, todo: Some(todo), .. } => {
                self.write_on(Role::Writing { plan, revision: new, known, todo, restates: false, step: None })
            }
            Role::Writing {
                plan,
                revision,
                mut known,
                mut todo,
                restates,
                step: Some(Step::Sent(write) | Step::Unknown(write)),
            } => {
                let Key::Assignment(of) = write.key else { return };
                known[usize::from(of)] = Entry { revision: new, value: Some(write.value) };
                todo[usize::from(of)] = None;
                self.write_on(Role::Writing { plan, revision, known, todo, restates, step: None })
            }
            role => role,
        };
        self.workers[me].role = role;
    }

    /// Reads the key of a write whose fate is unknown: ours is there, or it has not landed, or another's is there.
    pub(super) fn ask(&mut self, at: u8, variant: Variant) {
        let me = usize::from(at);
        let Some(Step::Unknown(write)) = self.workers[me].role.step() else { return };
        let found = self.read(write.key);
        if found.value == Some(write.value) {
            return self.landed(at, found.revision);
        }
        if found.revision == write.expect {
            return self.workers[me].role.set(Step::Sent(write));
        }
        match self.workers[me].role.clone() {
            Role::Planning { plan, known, .. } => self.plant(at, plan.term, found, known, variant),
            Role::Writing { plan, revision, mut known, todo, restates, .. } => {
                let theirs = held(found);
                let Key::Assignment(of) = write.key else { return };
                known[usize::from(of)].revision = found.revision;
                self.workers[me].role = if theirs.term > plan.term {
                    self.workers[me].term = self.workers[me].term.max(theirs.term);
                    Role::Follower
                } else if restates && theirs.term < plan.term {
                    Role::Planted { plan, revision }
                } else {
                    Role::Writing { plan, revision, known, todo, restates, step: None }
                };
            }
            // Somebody else has the lease, or it has expired again.
            _ => {
                if let Some(Value::Lease { term, .. }) = found.value {
                    self.workers[me].term = self.workers[me].term.max(term);
                }
                self.workers[me].role = Role::Follower;
            }
        }
    }
}
