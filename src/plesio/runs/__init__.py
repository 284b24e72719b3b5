"""Training runs on a pool: a run is a task of the pool's own machine, its learners are tasks on slots.

code: the working directory, shipped by digest. shelf: the runs' folders, on the pool's machine. hosting: the task of a
run. supervisor: coordinator and synchronizer of the run, whose learners the pool has. member: the task of a learner.
requests: what a user asks for.
"""
