"""What is kept: SQLAlchemy models, migrations, repositories."""
