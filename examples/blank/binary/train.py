"""The training loop and its settings. `torchrun` runs one process (rank) of it per core or GPU."""

from typing import Annotated

from modelyard.pipeline import TrainingSettings
from pydantic import Field


class Settings(TrainingSettings):
    """`training:` of config.yaml: the platform's settings, and this network's own."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((128, 64), min_length=1)
    """width of each hidden layer"""
    embedding: int = Field(8, ge=1)
    """most dimensions of a category's embedding"""
    dropout: float = Field(0.1, ge=0, lt=1)


def main() -> None:
    # Imported here: Dagster reads the settings above, and starts seconds sooner without torch.
    import torch
    from modelyard.pipeline import training_session

    from .network import Network, loss

    with training_session(Settings) as run:
        settings = run.settings
        network = Network(run.signature, settings)
        network.standardise.fit(run.train.numbers)
        model = run.distribute(network)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = run.schedule(optimizer)
        # From the last checkpoint on, if there is one; writes the next ones.
        progress = run.progress(model, optimizer, schedule)

        for epoch in progress.epochs():
            model.train()
            for step in progress.steps(epoch):
                optimizer.zero_grad(set_to_none=True)
                for numbers, categories, target in step.batches():
                    with run.precision():
                        batch_loss = loss(model(numbers, categories), target)
                    step.backward(batch_loss)
                optimizer.step()
                schedule.step()

            network.eval()
            with torch.no_grad(), run.precision():
                sums = [
                    loss(network(numbers, categories), target) * len(target)
                    for numbers, categories, target in run.validation_batches()
                ]
            progress.validated(run.mean_over_validation(sums))

        run.finish(progress)


if __name__ == "__main__":
    main()
