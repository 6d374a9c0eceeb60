"""What a model is and where its files are: names to commits, commits to folders, configs to what they describe."""
