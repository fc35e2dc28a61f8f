//! Who gets a slot, and when an endpoint counts as broken.

use super::*;
use crate::delivery::schedule::Schedule;

fn delivery(tenant: &str, endpoint: Uuid, sequence: i64) -> Claimed {
    Claimed {
        shard: 0,
        position: sequence,
        endpoint_id: endpoint,
        id: Uuid::nil(),
        tenant: tenant.into(),
        webhook_id: String::new(),
        sequence: Some(sequence),
        schedule: Schedule::Alarm,
        is_high: false,
        ordered: false,
        attempts: 1,
        age_seconds: 0.0,
        probe: false,
        body: String::new(),
        attempts_before: 0,
        version: 1,
        trace: None,
    }
}

fn filled(queue: &DeliveryQueue, tenant: &str, count: i64) -> Uuid {
    let endpoint = Uuid::new_v4();
    queue.made((1..=count).map(|n| Made::Claimed(delivery(tenant, endpoint, n))).collect());
    endpoint
}

fn of(slots: &[Slot], endpoint: Uuid) -> usize {
    slots.iter().filter(|slot| slot.endpoint == endpoint).count()
}

#[test]
fn an_endpoint_has_its_slots_and_no_more_and_goes_on_in_them() {
    let queue = DeliveryQueue::default();
    let endpoint = filled(&queue, "t", 20);
    let mut slots = queue.start();
    assert_eq!(slots.len(), SLOTS_PER_ENDPOINT_MAX);
    assert!(queue.start().is_empty());
    let mut slot = slots.remove(0);
    for expect in [1, 17, 18, 19, 20] {
        assert_eq!(slot.next().unwrap().claimed.sequence, Some(expect));
    }
    assert!(slot.next().is_none());
    drop((slot, slots));
    let queues = queue.queues();
    assert!(queues.by_endpoint.is_empty(), "nothing is left of {endpoint}");
    assert_eq!((queues.beyond, queues.beyond_of.len()), (0, 0));
}

#[test]
fn what_a_full_queue_has_no_capacity_for_is_looked_for_when_something_of_it_ends() {
    use futures_util::FutureExt;
    let queue = DeliveryQueue::default();
    let endpoint = filled(&queue, "t", QUEUED_PER_ENDPOINT_MAX as i64);
    queue.made(vec![Made::Waits { endpoint_id: endpoint }]);
    assert!(queue.claim_requested().now_or_never().is_none(), "it would be claimed in vain");
    drop(queue.start());
    assert!(queue.claim_requested().now_or_never().is_some());
    queue.made(vec![Made::Waits { endpoint_id: Uuid::new_v4() }]);
    assert!(queue.claim_requested().now_or_never().is_some(), "there is capacity for another's");
}

#[test]
fn a_tenant_that_hangs_everywhere_leaves_others_their_slots() {
    let queue = DeliveryQueue::default();
    let greedy: Vec<Uuid> = (0..100).map(|_| filled(&queue, "greedy", 128)).collect();
    let slots = queue.start();
    assert_eq!(slots.len(), greedy.len() * SLOTS_GUARANTEED + IN_FLIGHT_OF_TENANT_MAX);
    let fewest = greedy.iter().map(|endpoint| of(&slots, *endpoint)).min();
    assert_eq!(fewest, Some(SLOTS_GUARANTEED + IN_FLIGHT_OF_TENANT_MAX / greedy.len()));
    let other = filled(&queue, "other", 128);
    assert_eq!(of(&queue.start(), other), SLOTS_PER_ENDPOINT_MAX);
}

#[test]
fn one_that_fails_has_two_attempts_until_one_is_delivered() {
    let queue = DeliveryQueue::default();
    let endpoint = filled(&queue, "t", 40);
    let mut slots = queue.start();
    assert!(!queue.ended(endpoint, false, false, Instant::now()), "one failure");
    // Slots beyond the two end when their attempt has ended.
    slots.iter_mut().for_each(|slot| assert!(slot.next().is_some()));
    assert!(slots[0].next().is_none());
    slots.truncate(SLOTS_GUARANTEED);
    assert!(slots[0].next().is_some());
    assert_eq!(queue.capacity().each, [0], "and nothing more is claimed for it");
    queue.ended(endpoint, true, false, Instant::now());
    assert_eq!(queue.start().len(), SLOTS_PER_ENDPOINT_MAX - SLOTS_GUARANTEED);
}

#[test]
fn failures_open_only_if_they_last_and_nothing_was_delivered_between() {
    let queue = DeliveryQueue::default();
    let endpoint = filled(&queue, "t", 1);
    let (start, long) = (Instant::now(), Duration::from_millis(FAILING_MS_MIN));
    let fails = |at_once, after| queue.ended(endpoint, false, at_once, start + after);
    let none = Duration::ZERO;
    assert!(!fails(false, none) && !fails(false, none) && !fails(false, none), "one together");
    assert!(fails(false, long));
    assert!(!fails(false, long) && !fails(false, long), "counted anew");
    queue.ended(endpoint, true, false, start + long);
    assert!(!fails(false, long * 2));
    assert!(fails(true, long * 2), "what needs no second one");
}
