"""Run a worker: `python -m tempo_trainer.worker`. SIGTERM ends it after the current iteration."""

from tempo_trainer.worker.process import main

if __name__ == "__main__":
    main()
