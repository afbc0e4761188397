//! The simulator notices a broken core: each mutant breaks a promise within so many seeds, and the whole core keeps them all on
//! the same seeds.

use super::simulation::{simulate, simulate_work};
use crate::testing::{Mutant, Run};

fn caught(mutant: Mutant, seeds: u64) -> (u64, String) {
    caught_by(simulate, mutant, seeds)
}

/// One that is broken in the data path, and what is said of it.
fn caught_at_work(mutant: Mutant, signs: &[&str]) {
    let (_, violation) = caught_by(simulate_work, mutant, 300);
    assert!(signs.iter().any(|sign| violation.contains(sign)), "{mutant:?}: {violation}");
}

/// The first seed that shows the mutant, and what it breaks there.
fn caught_by(simulate: impl Fn(u64, bool) -> Run, mutant: Mutant, seeds: u64) -> (u64, String) {
    let broken = |seed| mutant.breaks(|| simulate(seed, false)).violation;
    let found = (0..seeds).find_map(|seed| Some((seed, broken(seed)?)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{mutant:?} is not noticed within {seeds} seeds"));
    println!("{mutant:?} at seed {seed}: {violation}");
    for seed in 0..=seed {
        assert_eq!(simulate(seed, false).violation, None, "seed {seed}, nothing broken");
    }
    (seed, violation)
}

#[test]
fn an_id_renewed_without_a_compare_is_noticed() {
    caught(Mutant::IdRenewedBlindly, 300);
}

#[test]
fn a_lease_renewed_without_a_compare_is_noticed() {
    caught(Mutant::LeaseRenewedBlindly, 300);
}

#[test]
fn a_new_leader_that_plans_from_scratch_is_noticed() {
    caught(Mutant::LeaderPlansFromScratch, 300);
}

#[test]
fn an_emergency_that_obeys_the_cool_down_is_noticed() {
    caught(Mutant::EmergencyCoolsDown, 300);
}

#[test]
fn versions_that_restart_with_a_new_leader_are_noticed() {
    caught(Mutant::VersionRestarts, 300);
}

#[test]
fn a_late_reply_taken_for_a_fresh_one_is_noticed() {
    caught(Mutant::LateReplyTaken, 300);
}

#[test]
fn an_old_value_of_our_own_taken_for_a_new_one_is_noticed() {
    caught(Mutant::OldValueTakenForNew, 300);
}

#[test]
fn an_assignment_of_an_older_term_that_is_accepted_is_noticed() {
    caught(Mutant::OldTermAccepted, 300);
}

#[test]
fn a_lost_compare_taken_for_a_verdict_is_noticed() {
    caught(Mutant::LostCompareFences, 300);
}

#[test]
fn a_term_read_from_the_lease_alone_is_noticed() {
    caught(Mutant::TermFromLeaseOnly, 300);
}

#[test]
fn incarnations_compared_by_uuid_instead_of_claim_are_noticed() {
    caught(Mutant::UuidInsteadOfClaim, 300);
}

#[test]
fn an_answer_to_the_operator_without_a_compare_is_noticed() {
    caught(Mutant::AnswersBlindly, 300);
}

#[test]
fn a_plan_that_moves_more_than_it_may_is_noticed() {
    caught(Mutant::BudgetExceeded, 300);
}

#[test]
fn a_drained_worker_that_gets_partitions_is_noticed() {
    caught(Mutant::DrainsForgotten, 300);
}

#[test]
fn a_state_that_is_written_apart_from_its_position_is_noticed() {
    caught_at_work(Mutant::StateAfterPosition, &["is lost at position"]);
}

#[test]
fn a_commit_without_a_compare_is_noticed() {
    caught_at_work(Mutant::CommitsBlindly, &["epoch", "position", "who lives", "generation"]);
}

#[test]
fn a_message_accepted_by_position_instead_of_mark_is_noticed() {
    caught_at_work(Mutant::AcceptedByPosition, &["handed over after", "has a gap"]);
}

#[test]
fn a_reader_that_begins_one_message_late_is_noticed() {
    caught_at_work(Mutant::ReaderJoinsEarly, &["has a gap", "is lost at position"]);
}

#[test]
fn outputs_numbered_per_batch_are_noticed() {
    caught_at_work(Mutant::OutputsNumberedPerBatch, &["is published twice", "\" and \""]);
}

#[test]
fn a_fresh_instance_that_does_not_go_back_to_the_commit_is_noticed() {
    caught_at_work(Mutant::NoWayBackToCommit, &["is lost at position"]);
}

#[test]
fn a_commit_given_up_for_a_lost_compare_is_noticed() {
    caught_at_work(Mutant::LostCommitFences, &["which it owns"]);
}

#[test]
fn a_state_handed_to_another_partition_is_noticed() {
    caught_at_work(Mutant::SnapshotShared, &["another partition's", "handed over after", "is lost at position"]);
}

#[test]
fn a_live_owner_overruled_without_waiting_is_noticed() {
    caught_at_work(Mutant::LiveOwnerOverruled, &["who lives"]);
}

#[test]
fn an_object_that_partitions_share_is_noticed() {
    caught_at_work(Mutant::ObjectsShared, &["another partition's", "is lost at position", "is not there"]);
}

#[test]
fn orphans_that_wait_for_a_strategy_are_noticed() {
    caught(Mutant::OrphansWaitForStrategy, 300);
}

#[test]
fn an_answer_to_another_question_is_noticed() {
    caught(Mutant::StaleAnswerTaken, 2000);
}

#[test]
fn an_answer_that_nobody_has_checked_is_noticed() {
    caught(Mutant::AnswerUnchecked, 300);
}

#[test]
fn joiners_that_wait_for_a_strategy_are_noticed() {
    caught(Mutant::JoinersWaitForStrategy, 300);
}

#[test]
fn an_object_deleted_before_its_successor_is_committed_is_noticed() {
    caught_at_work(Mutant::DeletedBeforeCommit, &["is not there"]);
}

#[test]
fn a_lost_record_taken_for_that_of_a_new_partition_is_noticed() {
    caught_at_work(Mutant::LostRecordBeginsAnew, &["is lost at position"]);
}

#[test]
fn a_move_by_the_operator_that_keeps_the_generation_is_noticed() {
    caught_at_work(Mutant::MovedInGeneration, &["is not published", "which it owns", "begins otherwise"]);
}

#[test]
fn a_move_by_the_operator_that_the_owner_writes_over_is_noticed() {
    caught_at_work(Mutant::MoveOverwritten, &["generation"]);
}

#[test]
fn a_pause_that_is_obeyed_when_nothing_waits_any_more_is_noticed() {
    caught_at_work(Mutant::PausedWhenIdle, &["is paused"]);
}

#[test]
fn an_idle_owner_that_never_looks_at_its_record_is_noticed() {
    caught_at_work(Mutant::NeverLooks, &["not all is handled"]);
}
