"""The training loop. `torchrun` runs one process (rank) of this file per core or GPU."""

import torch
from modelyard.pipeline.training import session as training

from .network import Network, loss
from .settings import NetworkSettings


def main() -> None:
    with training.session(NetworkSettings) as run:
        settings = run.settings
        network = Network(run.signature, settings.hidden, settings.embedding, settings.dropout)
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
    training.start(main)
