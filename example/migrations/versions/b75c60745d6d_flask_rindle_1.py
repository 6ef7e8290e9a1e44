"""flask-rindle 1

Revision ID: b75c60745d6d
Revises: 
Create Date: 2026-11-20 19:07:53.907447

"""
from alembic import op
import sqlalchemy as sa
from flask_rindle import migrations

# revision identifiers, used by Alembic.
revision = 'b75c60745d6d'
down_revision = None
branch_labels = None
depends_on = None


def upgrade():
    migrations.upgrade(op, since=0, to=1)


def downgrade():
    migrations.downgrade(op, since=1, to=0)
