"""Which tests run in a cluster and inline, and which of those have no meaning inline, and why."""

from __future__ import annotations

BOTH_MODES = (
    "test_actors",
    "test_coroutine_tasks",
    "test_freeing",
    "test_objects",
    "test_paper_api",
    "test_references",
    "test_runtime_context",
    "test_tasks",
    "test_util",
)

# Test functions that run in a cluster only. So do all that have a task wait for a mark of the test:
# inline it would keep the thread that is to write it.
NOT_INLINE = {
    # There is no worker that may have another view of the world than its driver.
    "test_a_function_whose_module_is_missing_on_the_worker_is_the_tasks_error": "one process",
    "test_an_exception_is_of_the_users_type_with_the_remote_traceback": "one process id",
    "test_a_task_knows_its_ids_and_its_names": "one worker id",
    "test_facts_about_the_cluster": "there is no session directory",
    "test_init_in_a_worker_is_a_second_init": "shutdown in a task would be the driver's own",
    # There is no disk behind the store.
    "test_three_times_the_memory_is_put_and_got_back": "nothing is spilled",
    "test_a_task_has_its_arguments_back_from_disk": "nothing is spilled",
    "test_results_that_do_not_fit_into_memory_are_all_there": "nothing is spilled",
    "test_a_store_is_filled_many_times_over_without_growing": "the store keeps no statistics",
    # Nothing runs at the same time, so nothing waits for resources.
    "test_an_actor_holds_what_it_asked_for_while_it_lives": "resources are checked, not taken",
    # Code that was loaded stays loaded for as long as the process, and what it captured.
    "test_a_closure_keeps_what_it_captures": "no worker to end",
    "test_a_reference_in_a_closure_stays_a_reference": "no worker to end",
}
