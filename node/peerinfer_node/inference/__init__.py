"""Running models: the daemon's side (`subprocess_executor`) and the process it talks to (`worker_process`)."""
